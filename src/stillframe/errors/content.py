"""A file, an image or a backup cannot be used as it is."""

from stillframe.errors.base import StillframeError


class BadImage(StillframeError):
    """A file is not an image we are willing to hand to QEMU."""

    code, status = "bad_image", 409
    hint = "QEMU did not open the file; nothing was changed. Keep a copy of it, then fix what the message names."


class InternalSnapshots(BadImage):
    """A qcow2 file with snapshots inside it. The volume's present content is apart from them and complete."""

    code = "internal_snapshots"
    hint = (
        "The present content is complete. 'qemu-img snapshot -l FILE' lists the snapshots; if nobody needs what they hold,"
        " delete each with 'qemu-img snapshot -d SNAPSHOT FILE' while no program has the file open, and repeat: nothing else"
        " is lost."
    )


class NotSound(BadImage):
    """A file whose reference counts or bitmaps cannot be relied on: nothing is built on it or merged into it."""

    code = "image_not_sound"
    hint = (
        "Nothing was changed. Stop the server and repeat: Stillframe then repairs what can be repaired safely. If the file has"
        " the corrupt bit, make a copy first, run 'qemu-img check -r all' on the copy, and compare."
    )


class BadBackup(StillframeError):
    """A part of a backup is missing, damaged, or not what its manifest says. The message names the part."""

    code, status = "bad_backup", 409
    hint = "Nothing was restored from it. Use another backup of the volume, or bring the named object back from a copy."


class ImageNotUsable(StillframeError):
    """An image of the image service cannot be used for this, or the image service does not accept the image."""

    code, status = "image_not_usable", 400
    hint = "Choose an image that is active, unaltered and not too large, in the format it is declared to have."

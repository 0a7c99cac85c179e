"""Gives a new image file its name: the file is made under a temporary name, verified, synced, and only then linked.

A killed qemu-img leaves files that look complete (F6, F7, qemu 7.2). So nothing is ever made under the name that others look
for, nor in a directory that others may enter. Every function may be repeated after a crash at any point.
"""

import os
import secrets
import stat
import threading
from contextlib import suppress
from pathlib import Path

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.errors import StepFailed
from stillframe.host import empty_overlay, files, qcow2, workdir
from stillframe.host.image_command import command, limits
from stillframe.host.run import run

_turn = threading.Lock()
_ANY_GROUP = -1
_EVERYTHING = 0o660, _ANY_GROUP


def publish_base(share: Path, image: Image, token: str, volume_id: str) -> None:
    """Publishes an empty file of ``image.size`` bytes, qcow2 or raw (sparse). May be repeated with the same token."""
    temporary = begin(share, image, token, volume_id)
    if temporary is not None:
        with workdir.working(share) as place:
            run(command("create", [image.format], [temporary, str(image.size)]), cwd=place, limits=limits(1))
        finish(share, temporary, image)


def publish_overlay(share: Path, image: Image, token: str, volume_id: str) -> None:
    """Publishes an empty overlay on ``image.backing``, which is qcow2 or raw and which a guest may be using. May be repeated
    with the same token: an equal overlay with that name is kept."""
    pieces, length = empty_overlay.pieces(image)
    temporary = begin(share, image, token, volume_id)
    if temporary is not None:
        with workdir.working(share) as place:
            empty_overlay.write(place, temporary, pieces, length)
        finish(share, temporary, image)


def begin(share: Path, image: Image, token: str, volume_id: str) -> str | None:
    """Returns the name of a new empty file in the working directory, mode 0660, in which the image is made; None when the image
    is published already.

    What an interrupted try left under that name is removed, and so is the second name that a crash between link and unlink
    leaves.
    """
    temporary = names.temporary_name(volume_id, token)
    files.remove_temporary(share, temporary)
    if files.exists(share, image.name):
        _manage_file(share, image)
        return None
    with workdir.working(share) as place:
        files.create_empty(place, temporary)
    return temporary


def finish(share: Path, temporary: str, image: Image, like: str | None = None) -> None:
    """Verifies the finished temporary file against ``image``, makes it durable and gives it its name. Nobody may read it who
    may not read ``like``, by default the adopted disk that it stands on. Raises StepFailed and removes the file when its header
    or length differs."""
    former = like or _adopted_base(share, image)
    with workdir.working(share) as place:
        found = qcow2.read_as(place, temporary, image.format)
        made = Image(image.name, found.format, found.size, found.backing, found.backing_format)
        if made != image:
            files.unlink(place, temporary)
            raise StepFailed(f"qemu-img made {made} where {image} was asked for")
        _share_mode(place, temporary, _rights(share, former) if former else _EVERYTHING)
    files.publish(share, temporary, image.name)


def _share_mode(place: Path, temporary: str, like: tuple[int, int]) -> None:
    """Gives a new file mode 0660, whatever the program that created it asked for (qemu-img asks for 0644), without the rights
    that a file ``like`` does not give: its mode and its group. A directory that is not ours may give a group of its own to all
    that is made in it, also to people who may not read the disks there."""
    handle = files.open_regular(place, temporary)
    try:
        mode, group = like
        mine = group in (_ANY_GROUP, os.fstat(handle).st_gid)
        os.fchmod(handle, 0o660 & (mode if mine else mode & 0o700))
    finally:
        os.close(handle)


def _adopted_base(share: Path, image: Image) -> str | None:
    """Returns the lowest file behind an image, if it is not named like a volume's: its directory was somebody's before it was
    a share. In our own directories libvirt may have changed owner and group of the files that a guest has open."""
    lowest = image
    try:
        while lowest.backing is not None and lowest.backing_format is not None:
            lowest = qcow2.read_as(share, lowest.backing, lowest.backing_format)
    except FileNotFoundError:
        return None
    return lowest.name if lowest is not image and names.parse(lowest.name) is None else None


def _rights(share: Path, name: str) -> tuple[int, int]:
    try:
        found = os.stat(share / name, follow_symlinks=False)
    except FileNotFoundError:
        return _EVERYTHING
    return (found.st_mode if stat.S_ISREG(found.st_mode) else 0o600), found.st_gid


def _manage_file(share: Path, image: Image) -> None:
    found = qcow2.read_as(share, image.name, image.format)
    if found != image:
        raise StepFailed(f"{image.name} exists already and is another file: {found}")
    files.sync_file(share, image.name)
    files.sync_directory(share)


def make_folder(share: Path, *below: str) -> None:
    """Makes the last directory of ``below`` on the share, for its group, mode 2770, durably, unless the name is taken. Raises
    what ``workdir.held`` and ``workdir.working`` raise.

    It is made in the working directory and moved from there with its mode. If it were made in place, somebody could put another
    directory there before the mode is set: the working directory, say, which would then be open to the group.
    """
    with _turn, workdir.held(share, *below[:-1]) as place, workdir.working(share) as inner:
        target = place / below[-1]
        if os.path.lexists(target):  # rename would replace an empty one that another thread is about to use
            return
        made = inner / f".tmp.folder.{secrets.token_hex(8)}"
        made.mkdir()
        try:
            made.chmod(0o2770)  # mkdir's mode argument is cut by the umask and loses the setgid bit
            os.rename(made, target)
        except OSError:
            if not os.path.lexists(target):  # NFS repeated the rename, or another process was first
                raise
        finally:
            with suppress(OSError):
                made.rmdir()
        files.sync_directory(place)

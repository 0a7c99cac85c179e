"""How a new image file gets its name: made under a temporary one, verified, durable, and only then linked.

A killed qemu-img leaves files that pass for whole ones (findings 6 and 7, qemu 7.2), so nothing is ever made under the
name others look for. Every function may be repeated after a crash at any point.
"""

import os
from pathlib import Path

from stillframe.chain.image import Image
from stillframe.chain.names import temporary_name
from stillframe.errors import BadImage, StepFailed
from stillframe.host import files, qcow2, qemu_img
from stillframe.host.image_command import command, limits
from stillframe.host.run import run


def publish_base(share: Path, image: Image, token: str, volume_id: str) -> None:
    """Publishes an empty file of ``image.size`` bytes, qcow2 or raw (sparse). May be repeated with the same token."""
    temporary = begin(share, image, token, volume_id)
    if temporary is not None:
        run(command("create", [image.format], [temporary, str(image.size)]), cwd=share, limits=limits(1))
        finish(share, temporary, image)


def publish_overlay(share: Path, image: Image, token: str, volume_id: str) -> None:
    """Publishes an empty overlay on ``image.backing``, which is qcow2 or raw and may be in use by a guest.

    May be repeated with the same token: an equal overlay of that name is kept.
    """
    if image.backing is None or image.backing_format is None or image.format != "qcow2":
        raise BadImage(f"{image.name} is no overlay")
    temporary = begin(share, image, token, volume_id)
    if temporary is not None:
        arguments = ["-b", image.backing, temporary, str(image.size)]
        run(command("overlay", [image.format, image.backing_format], arguments), cwd=share, limits=limits(1))
        finish(share, temporary, image)


def publish_as(share: Path, image: Image, token: str, volume_id: str) -> None:
    """Publishes the temporary file that was made for this token before, when it is what ``image`` says.

    May be repeated. Raises StepFailed when it is not, or when neither it nor the published file is there.
    """
    temporary = temporary_name(volume_id, token)
    if files.exists(share, image.name):
        if files.exists(share, temporary) and not os.path.samefile(share / temporary, share / image.name):
            raise StepFailed(f"{image.name} exists already; what was made to become it lies in {temporary}")
        files.remove(share, temporary)
        _adopt(share, image)
    elif files.exists(share, temporary):
        qemu_img.check(share, temporary, image.format)
        finish(share, temporary, image)
    else:
        raise StepFailed(f"{image.name} cannot be published: {temporary} does not exist")


def begin(share: Path, image: Image, token: str, volume_id: str) -> str | None:
    """Returns the name of a new empty file, mode 0660, to make the image in; None when it is published already.

    What an interrupted try left under that name is removed, also the second name a crash between link and unlink leaves.
    """
    temporary = temporary_name(volume_id, token)
    files.remove(share, temporary)
    if files.exists(share, image.name):
        _adopt(share, image)
        return None
    files.create_empty(share, temporary)
    return temporary


def finish(share: Path, temporary: str, image: Image) -> None:
    """Verifies the finished temporary file against ``image``, makes it durable and gives it its name.

    Raises StepFailed, and removes the file, when its header or length says something else.
    """
    found = qcow2.read_as(share, temporary, image.format)
    made = Image(image.name, found.format, found.size, found.backing, found.backing_format)
    if made != image:
        files.remove(share, temporary)
        raise StepFailed(f"qemu-img made {made} where {image} was asked for")
    files.share_mode(share, temporary)
    files.publish(share, temporary, image.name)


def _adopt(share: Path, image: Image) -> None:
    found = qcow2.read_as(share, image.name, image.format)
    if found != image:
        raise StepFailed(f"{image.name} exists already and is another file: {found}")
    files.sync_file(share, image.name)
    files.sync_directory(share)

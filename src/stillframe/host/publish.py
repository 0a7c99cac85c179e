"""How a new image file gets its name: made under a temporary one, verified, durable, and only then linked.

A killed qemu-img leaves files that pass for whole ones (F6, F7, qemu 7.2), so nothing is ever made under the
name others look for, nor where anybody else may enter. Every function may be repeated after a crash at any point.
"""

import os
import secrets
import threading
from contextlib import suppress
from pathlib import Path

from stillframe.chain.image import Image
from stillframe.chain.names import temporary_name
from stillframe.errors import BadImage, StepFailed
from stillframe.host import files, qcow2, qemu_img, workdir
from stillframe.host.image_command import command, limits
from stillframe.host.run import run

_turn = threading.Lock()


def publish_base(share: Path, image: Image, token: str, volume_id: str) -> None:
    """Publishes an empty file of ``image.size`` bytes, qcow2 or raw (sparse). May be repeated with the same token."""
    temporary = begin(share, image, token, volume_id)
    if temporary is not None:
        with workdir.working(share) as place:
            run(command("create", [image.format], [temporary, str(image.size)]), cwd=place, limits=limits(1))
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
        with workdir.working(share) as place:
            run(command("overlay", [image.format, image.backing_format], arguments), cwd=place, limits=limits(1))
        finish(share, temporary, image)


def publish_as(share: Path, image: Image, token: str, volume_id: str) -> None:
    """Publishes the temporary file that was made for this token before, when it is what ``image`` says.

    May be repeated. Raises StepFailed when it is not, or when neither it nor the published file is there.
    """
    temporary = temporary_name(volume_id, token)
    with workdir.working(share) as place:
        made = files.exists(place, temporary)
        if files.exists(share, image.name):
            if made and not _same(place / temporary, share / image.name):
                raise StepFailed(f"{image.name} exists already; what was made to become it lies in {temporary}")
            files.unlink(place, temporary)
            _adopt(share, image)
            return
        if not made:
            raise StepFailed(f"{image.name} cannot be published: {temporary} does not exist")
        qemu_img.check(place, temporary, image.format)
    finish(share, temporary, image)


def _same(one: Path, other: Path) -> bool:
    return os.path.samestat(os.stat(one, follow_symlinks=False), os.stat(other, follow_symlinks=False))


def begin(share: Path, image: Image, token: str, volume_id: str) -> str | None:
    """Returns the name of a new empty file in the working directory, mode 0660, to make the image in; None when it is published
    already.

    What an interrupted try left under that name is removed, also the second name a crash between link and unlink leaves.
    """
    temporary = temporary_name(volume_id, token)
    files.remove_temporary(share, temporary)
    if files.exists(share, image.name):
        _adopt(share, image)
        return None
    with workdir.working(share) as place:
        files.create_empty(place, temporary)
    return temporary


def finish(share: Path, temporary: str, image: Image) -> None:
    """Verifies the finished temporary file against ``image``, makes it durable and gives it its name.

    Raises StepFailed, and removes the file, when its header or length says something else.
    """
    with workdir.working(share) as place:
        found = qcow2.read_as(place, temporary, image.format)
        made = Image(image.name, found.format, found.size, found.backing, found.backing_format)
        if made != image:
            files.unlink(place, temporary)
            raise StepFailed(f"qemu-img made {made} where {image} was asked for")
        files.share_mode(place, temporary)
    files.publish(share, temporary, image.name)


def _adopt(share: Path, image: Image) -> None:
    found = qcow2.read_as(share, image.name, image.format)
    if found != image:
        raise StepFailed(f"{image.name} exists already and is another file: {found}")
    files.sync_file(share, image.name)
    files.sync_directory(share)


def make_folder(share: Path, *below: str) -> None:
    """Makes the last of ``below``, a directory on the share for its group, mode 2770, durably, unless the name is taken. Raises
    as ``workdir.held`` and ``workdir.working``.

    It is made in the working directory and moved from there with its mode. Where it is to lie somebody else could put another
    directory in its place before it has its mode: the working directory, say, which would then be open to the group.
    """
    with _turn, workdir.held(share, *below[:-1]) as place, workdir.working(share) as inner:
        target = place / below[-1]
        if os.path.lexists(target):  # rename would take the place of an empty one, which another thread is about to use
            return
        made = inner / f".tmp.folder.{secrets.token_hex(8)}"
        made.mkdir()
        try:
            made.chmod(0o2770)  # mkdir's own mode is cut by the umask and loses the setgid bit
            os.rename(made, target)
        except OSError:
            if not os.path.lexists(target):  # a repeated rename on NFS, or another process was first
                raise
        finally:
            with suppress(OSError):
                made.rmdir()
        files.sync_directory(place)

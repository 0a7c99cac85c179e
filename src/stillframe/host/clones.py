"""Makes copies that share blocks with their source: one ioctl, whatever the size, copies what the source holds at that instant.

On XFS and btrfs the kernel first writes out what the page cache holds of the source, and shares the blocks under the file's own
lock (FICLONE, ioctl_ficlonerange(2)). So the copy has every finished write of a program that writes through the page cache, as
tgtd does. It lacks what a program keeps in its own memory, so this is not for QCOW2 files that QEMU has open (F48).
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from stillframe.chain.image import Image
from stillframe.errors import BadConfiguration, StepFailed
from stillframe.host import files, publish, workdir


def publish_clone(share: Path, source: str, image: Image, token: str, volume_id: str) -> None:
    """Publishes ``image``, a raw file of its own. It reads as the raw file ``source`` does now, and as zeros behind the end of
    that.

    May be repeated with the same token; after a crash the file is whole or absent. Raises StepFailed when the source is larger
    than ``image.size`` or the file system cannot share blocks, FileNotFoundError.
    """
    temporary = publish.begin(share, image, token, volume_id)
    if temporary is None:
        return
    handle = files.open_regular(share, source)
    try:
        with workdir.working(share) as place, files.made_durable(place, temporary):
            size = os.fstat(handle).st_size
            if size > image.size:
                raise StepFailed(f"{source} has {size} bytes and does not fit into the {image.size} of {image.name}")
            if not files.reflink(handle, place, temporary):
                raise StepFailed(f"the file system of {share} cannot share the blocks of {source}")
            os.truncate(place / temporary, image.size)
    finally:
        os.close(handle)
    publish.finish(share, temporary, image)


def require_reflink(share: Path, option: str) -> None:
    """Makes a reflink of a small file to try it. Raises BadConfiguration where the file system cannot share blocks."""
    with workdir.working(share) as place:
        names = [f".tmp.reflink.{secrets.token_hex(8)}.{each}" for each in ("from", "to")]
        try:
            for name in names:
                files.create_empty(place, name)
            handle = os.open(place / names[0], os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.pwrite(handle, b"\0" * 65536, 0)
                able = files.reflink(handle, place, names[1])
            finally:
                os.close(handle)
        finally:
            for name in names:
                with suppress(FileNotFoundError):
                    os.unlink(place / name)
    if not able:
        raise BadConfiguration(
            f"{option} {share} lies on a file system that cannot share blocks between files (reflink), so a snapshot would"
            " copy the whole volume; use XFS made with 'mkfs.xfs -m reflink=1', or btrfs, on a disk or in a loop-mounted file"
        )

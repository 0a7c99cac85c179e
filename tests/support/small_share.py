"""A share that is a small file system of its own, on a loop device: it can be filled."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_share(directory: Path, mib: int) -> Iterator[Path]:
    """Yields where the services of ``directory`` keep their volumes, a file system of ``mib`` MiB."""
    with small_disk(directory / "share.ext4", directory / "state/share", mib) as mounted:
        yield mounted


@contextmanager
def small_disk(image: Path, mounted: Path, mib: int) -> Iterator[Path]:
    """Mounts a file system of ``mib`` MiB at ``mounted``."""
    image.touch()
    os.truncate(image, mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image], check=True)
    mounted.mkdir(parents=True, mode=0o700)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        (mounted / "lost+found").rmdir()
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)


def fill(share: Path) -> Path:
    """Takes every free block; returns what to remove for room."""
    filler = share / "filler"
    with filler.open("wb") as file:
        while True:
            room = os.statvfs(share)
            try:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), max(room.f_bavail * room.f_frsize, room.f_frsize))
            except OSError:
                return filler

"""Removes files that nobody needs: each is gone for everybody at once, and its blocks are freed without blocking the disk for
others."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from stillframe.errors import BadImage, ShareUnavailable
from stillframe.host import files, workdir

AT_ONCE = 16 << 20  # bytes; a file of this size is unlinked at once, because nobody has to wait for that
SECONDS = 3.0
PIECE = 64 << 20
PAUSE_SECONDS = 0.05


def put(share: Path, name: str, to: str) -> None:
    """Moves a file into the working directory, fsyncs the share, then unlinks it: a crash in between leaves a file nothing
    refers to.

    Raises BadImage and leaves everything in place for what is not a regular file.

    A large file is unlinked a little later, in the background and in pieces; for everybody else it is gone with the rename.
    Freeing its blocks keeps the disk busy, for 0.75 ms a MiB (seen on ext4 mounted with ``discard``, Linux 6.18), and
    everything that needs the disk then, a guest or the journal, waits. When little space is free, the file is unlinked at once,
    because space matters more.
    """
    with workdir.working(share) as place:
        try:
            handle = files.open_regular(share, name, links=True)
            try:
                files.move_to(share / name, place / to, handle)
            finally:
                os.close(handle)
            later = files.allocated(place, to) > AT_ONCE and files.free_bytes(share) > files.total_bytes(share) // 10
        except FileNotFoundError:
            later = False
        files.sync_directory(share)
        if not later:
            files.unlink(place, to)
            return
    timer = threading.Timer(SECONDS, unlink_in_pieces, (share, to))
    timer.name, timer.daemon = "trash", True
    timer.start()


def unlink_in_pieces(share: Path, name: str) -> None:
    """Frees an unneeded file from its end, with pauses for others that use the disk. ``sweep`` removes what a crash leaves of
    it. The file must be in the working directory and have no other name: we may not shorten what another name shows."""
    with suppress(OSError, BadImage, ShareUnavailable), workdir.working(share) as place:
        handle = files.open_regular(place, name, links=True, flags=os.O_WRONLY)
        try:
            size = os.fstat(handle).st_size
            while size > PIECE and os.fstat(handle).st_nlink == 1:
                size -= PIECE
                os.ftruncate(handle, size)
                time.sleep(PAUSE_SECONDS)
        finally:
            os.close(handle)
        files.unlink(place, name)

"""Files nobody needs any more: gone for everybody at once, and freed without keeping others from the disk."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from stillframe.errors import BadImage, ShareUnavailable
from stillframe.host import files, workdir

AT_ONCE = 16 << 20  # bytes of a file that is unlinked with nothing to wait for
SECONDS = 3.0
PIECE = 64 << 20
PAUSE_SECONDS = 0.05


def put(share: Path, name: str, to: str) -> None:
    """Moves a file into the working directory, fsyncs the share, then unlinks it: a crash in between leaves a name nothing
    refers to. Raises BadImage, with everything in its place, for what is no regular file.

    A large file is unlinked a little later, behind the caller's back and in pieces: with the rename it is gone for everybody.
    Freeing its blocks keeps the disk busy, 0.75 ms a MiB were seen (ext4 mounted with ``discard``, Linux 6.18), and whoever
    waits for that disk just then, a guest or the journal, waits for all of it. Where little is free, room matters more.
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
    """Frees a file that nobody needs from its end, with pauses for others who use the disk. What it leaves is swept.

    Only one that lies in the working directory and has no other name: what another name shows is not ours to shorten."""
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

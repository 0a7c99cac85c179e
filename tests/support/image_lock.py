"""The lock a QEMU holds that lets nobody write to its image (qemu 7.2, block/file-posix.c)."""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY_WRITES = 201


@contextmanager
def held(path: Path) -> Iterator[None]:
    with path.open("rb") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, _NOBODY_WRITES, 1, 0))
        yield

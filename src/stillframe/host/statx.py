"""Tells which file a path leads to from what the kernel knows already; no server is asked.

``stat`` of a file on NFS or GlusterFS asks the server, and hangs for as long as the server is away. ``statx`` with
AT_STATX_DONT_SYNC (statx(2), Linux 4.11, glibc 2.28) answers from the cache, which always has a file that a program has open.
"""

import ctypes
import os
import struct

_AT_FDCWD = -100
_AT_STATX_DONT_SYNC = 0x4000
_STATX_INO = 0x100
_SIZE = 256
_INODE, _DEVICE = struct.Struct("=32xQ"), struct.Struct("=136xII")  # offsets in struct statx
_LIBC = ctypes.CDLL(None, use_errno=True)


def device_and_inode(path: str) -> tuple[int, int]:
    """Follows links. Raises OSError. An old libc without the call asks the server."""
    call = getattr(_LIBC, "statx", None)
    if call is None:
        found = os.stat(path)
        return found.st_dev, found.st_ino
    buffer = ctypes.create_string_buffer(_SIZE)
    if call(_AT_FDCWD, os.fsencode(path), _AT_STATX_DONT_SYNC, _STATX_INO, buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    major, minor = _DEVICE.unpack_from(buffer)
    return os.makedev(major, minor), _INODE.unpack_from(buffer)[0]

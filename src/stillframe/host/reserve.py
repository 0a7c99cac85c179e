"""Room on a file system that is a file's own before anything is written to it.

``fallocate`` with FALLOC_FL_KEEP_SIZE (fallocate(2), linux/falloc.h) takes blocks beyond the end of a file and leaves its
length alone: QEMU, which appends to a QCOW2 file as it grows, writes into them (F55).
"""

import ctypes
import errno
import os

from stillframe.errors import ShareUnavailable

_KEEP_SIZE = 1
_NOT_HERE = (errno.EOPNOTSUPP, errno.ENOSYS)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)


def reserve(handle: int, size: int) -> bool:
    """Takes ``size`` bytes of room, from its beginning on, for the file of the descriptor. May be repeated. Returns False on a
    file system that cannot do it. Raises ShareUnavailable where there is no such room."""
    while _LIBC.fallocate(handle, _KEEP_SIZE, 0, size) != 0:
        number = ctypes.get_errno()
        if number == errno.EINTR:
            continue
        if number in _NOT_HERE:
            return False
        if number in _FULL:
            raise ShareUnavailable(f"there is no room for {size} bytes: {os.strerror(number)}")
        raise OSError(number, os.strerror(number))
    return True

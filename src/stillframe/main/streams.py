"""The three standard streams of a process that was started without some of them."""

import os
import sys

_FLAGS = (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)


def complete() -> None:
    """Opens /dev/null for every standard stream that is closed, before anything else is opened.

    Otherwise the next file, pipe or socket that is opened gets its number, and what a library prints to standard error, as
    libvirt's does, lands there.
    """
    for number, flags in enumerate(_FLAGS):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # the lowest number that is free: this one
            os.set_inheritable(number, True)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)

"""Reads what programs of the host say, to find out what it means.

The words are those of the C locale: ``run`` sets it, and libvirt's daemon has it unless an operator gave it another one.
"""

import re

_NAMED = re.compile(r"""json:\{[^']*?"filename": "(?:[^"/']*/)*([^"/']+)"[^']*\}""")  # how a chain is spelled out for qemu-img
_LOCKED = re.compile(r'Failed to get (?:shared )?"[\w ]+" lock|Failed to lock byte \d+')
_FORBIDDEN = ("Permission denied", "Operation not permitted")


def without_chains(words: str) -> str:
    """Returns the words with each spelled-out chain cut to the name of its first file."""
    return _NAMED.sub(r"\1", words)


def is_locked(words: str) -> bool:
    """Tells whether QEMU failed to get its lock on an image file (qemu 7.2, block/file-posix.c)."""
    return bool(_LOCKED.search(words))


def is_forbidden(words: str) -> bool:
    """Tells whether the system refused the program access to something (strerror of EACCES and EPERM)."""
    return any(each in words for each in _FORBIDDEN)

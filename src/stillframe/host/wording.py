"""What programs of the host say, read for what it means.

Words are those of the C locale: ``run`` sets it, and libvirt's daemon has it unless an operator gave it another.
"""

import re

_NAMED = re.compile(r"""json:\{[^']*?"filename": "(?:[^"/']*/)*([^"/']+)"[^']*\}""")  # how qemu-img is told of a chain
_LOCKED = re.compile(r'Failed to get (?:shared )?"[\w ]+" lock|Failed to lock byte \d+')
_FORBIDDEN = ("Permission denied", "Operation not permitted")


def without_chains(words: str) -> str:
    """Returns the words with each chain that is spelled out cut to the name of its first file."""
    return _NAMED.sub(r"\1", words)


def is_locked(words: str) -> bool:
    """Tells whether QEMU did not get its lock on an image file (qemu 7.2, block/file-posix.c)."""
    return bool(_LOCKED.search(words))


def is_forbidden(words: str) -> bool:
    """Tells whether the system did not let the program at something (strerror of EACCES and EPERM)."""
    return any(each in words for each in _FORBIDDEN)

"""Reads the lines of a request's head, each in one pass.

Waitress's expressions (3.0.2) try every way to divide a line that does not fit, and every space before a value as its end. That
takes seconds or minutes for 64 KiB, and meanwhile no thread of the process runs. So they only get lines that are known to fit.
"""

import re

# No header may have one; a tab is not one of them.
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_NAME = re.compile(_TOKEN)
_START = re.compile(_TOKEN + rb" [^ ]+ HTTP/[0-9]\.[0-9]")
_SPACE = b" \t"


def start_line(line: bytes) -> bytes | None:
    """Returns the first line of a request without the white space at its end; None when it is not one (RFC 9112, section 3)."""
    line = line.rstrip(_SPACE)
    return line if _START.fullmatch(line) else None


def field(line: bytes) -> tuple[bytes, bytes] | None:
    """Returns the name of a header or trailer and its value, without white space around the value; None when the line is
    neither (RFC 9112, section 5)."""
    name, colon, value = line.partition(b":")
    if not colon or not _NAME.fullmatch(name) or CONTROL.search(value):
        return None
    return name, value.strip(_SPACE)

"""Makes text from others safe to show in a log, a terminal or a message.

A newline forges a log line. An escape sequence moves a terminal's cursor. A control of the writing direction shows the text in
another order than it has (Unicode Technical Report 36). Half a surrogate pair cannot be encoded. A path tells a reader of the
project where the host keeps things.
"""

import re

UNSAFE = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_UNSAFE = re.compile(f"[{UNSAFE}]")
_QUOTED = re.compile(r"""(['"])/(?:[^'"]*/)?([^'"/]*)\1""")
_BARE = re.compile(r"(?<![\w/.:~-])/(?:[^\s/'\",:;]+/)+(?=[^\s/'\",:;])")


def escaped(text: str, keep: str = "") -> str:
    """Returns the text with each unsafe character written like ``\\x1b`` or ``\\u202e``; those in ``keep`` stay as they are."""
    return _UNSAFE.sub(lambda found: found[0] if found[0] in keep else _written(ord(found[0])), text)


def unsafe(text: str, keep: str = "") -> str | None:
    """Returns the first unsafe character as ``escaped`` writes it; None when there is none."""
    return next((_written(ord(letter)) for letter in _UNSAFE.findall(text) if letter not in keep), None)


def without_directories(words: str) -> str:
    """Returns the text with each absolute path cut to its last part."""
    return _BARE.sub("", _QUOTED.sub(r"\1\2\1", words))


def _written(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

"""Text of others on its way to a log, a terminal or a message.

A newline forges a log line, an escape sequence moves a terminal's cursor, a control of the writing direction shows another
order than what is there (Unicode Technical Report 36), and half a surrogate pair cannot be encoded. A path tells a reader of
the project where the host keeps things.
"""

import logging
import re
from typing import Any, TextIO

UNSAFE = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_UNSAFE = re.compile(f"[{UNSAFE}]")
_QUOTED = re.compile(r"""(['"])/(?:[^'"]*/)?([^'"/]*)\1""")
_BARE = re.compile(r"(?<![\w/.:~-])/(?:[^\s/'\",:;]+/)+(?=[^\s/'\",:;])")


def escaped(text: str, keep: str = "") -> str:
    """Returns the text with what is unsafe to show written as ``\\x1b`` or ``\\u202e``, but for the letters of ``keep``."""
    return _UNSAFE.sub(lambda found: found[0] if found[0] in keep else _written(ord(found[0])), text)


def unsafe(text: str, keep: str = "") -> str | None:
    """Returns the first unsafe letter as ``escaped`` writes it; None when there is none."""
    return next((_written(ord(letter)) for letter in _UNSAFE.findall(text) if letter not in keep), None)


def without_directories(words: str) -> str:
    """Returns the words with each absolute path cut to its last part."""
    return _BARE.sub("", _QUOTED.sub(r"\1\2\1", words))


def _written(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class OneLine(logging.Formatter):
    """What was logged stands on one line, whoever wrote it. Only a traceback has more, and they are indented."""

    def format(self, record: logging.LogRecord) -> str:
        first, *rest = super().format(record).split("\n")
        return "\n".join([escaped(first), *[f"    {escaped(line)}" for line in rest]])

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = record.message.replace("\nhint: ", "; hint: ").replace("\n", "\\n")
        return super().formatMessage(record)


class Terminal:
    """A stream to which nothing unsafe is written, in the shape of the text stream below it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(escaped(text, keep="\n\t"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

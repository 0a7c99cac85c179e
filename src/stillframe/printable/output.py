"""Writes text from others safely to a log and to the terminal of a command."""

import logging
from collections.abc import Iterable
from typing import Any, TextIO

from stillframe.printable import escaped


class OneLine(logging.Formatter):
    """Writes each log record on one line, whatever it quotes. Only a traceback has more lines, and they are indented."""

    def format(self, record: logging.LogRecord) -> str:
        first, *rest = super().format(record).split("\n")
        return "\n".join([escaped(first), *[f"    {escaped(line)}" for line in rest]])

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = record.message.replace("\nhint: ", "; hint: ").replace("\n", "\\n")
        return super().formatMessage(record)


class Terminal:
    """A text stream that escapes what is unsafe; in all else it is the stream it writes to."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes the text with what is unsafe escaped; returns the number of characters that were written."""
        return self._stream.write(escaped(text, keep="\n\t"))

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes each of the texts as ``write`` does; nothing is put between them."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

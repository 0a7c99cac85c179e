"""Lines of a log, for people and as JSON: nobody forges one, and nothing in them steers who shows them."""

import json
import logging
import sys

import pytest

from stillframe.main.log import _Json, _Plain
from stillframe.printable import unsafe

HOSTILE = ["a\nb", "a\r\nb", "\x1b[2J", "\x9b2J", "\u202e", "\u2028", "\x00", "\ud800"]


def record(message: str, *arguments: object, failed: bool = False) -> logging.LogRecord:
    caught = None
    if failed:
        try:
            raise ValueError(message)
        except ValueError:
            caught = sys.exc_info()
    return logging.LogRecord("name", logging.INFO, "path", 1, message, arguments, caught)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("failed", [False, True])
def test_a_json_line_is_one_line_and_safe_to_show(text: str, failed: bool) -> None:
    line = _Json().format(record("%s is there", text, failed=failed) if not failed else record(text, failed=True))
    assert "\n" not in line and line.isascii()
    found = json.loads(line)
    assert unsafe(found["message"]) is None
    assert not [each for each in found["traceback"] or [] if unsafe(each)]
    if not failed:
        assert found["message"].endswith(" is there")


@pytest.mark.parametrize("text", HOSTILE)
def test_a_line_for_people_is_one_line_and_safe_to_show(text: str) -> None:
    assert unsafe(_Plain("%(message)s").format(record("%s is there", text))) is None

"""Nothing that somebody else wrote forges a log line or steers a terminal."""

import io
import json
import logging
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.errors import BadRequest
from stillframe.main import log
from stillframe.printable import escaped, unsafe, without_directories
from stillframe.printable.output import OneLine, Terminal
from stillframe.web import body

HOSTILE = "GET /\n2026-11-26 00:00:00,000 1 ERROR stillframe forged\x1b[2J\x9b31m\u202eabc\u2066\u2028x\x00\ud800"


@given(st.text(st.characters(codec=None)))
def test_what_is_escaped_holds_nothing_unsafe_and_loses_nothing_else(text: str) -> None:
    shown = escaped(text)
    assert not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in shown)
    assert unsafe(shown) is None
    assert (shown == text) == (unsafe(text) is None)
    shown.encode()


def test_what_is_kept_is_kept() -> None:
    assert escaped("a\nb\tc\r", keep="\n\t") == "a\nb\tc\\x0d"
    assert escaped("Grüße 漢字 👩‍👩‍👧 שלום") == "Grüße 漢字 👩‍👩‍👧 שלום"


def logged(formatter: logging.Formatter, *arguments: object, error: bool = False) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.getLogger("hostile")
    logger.handlers, logger.propagate = [handler], False
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logger.error("%s -> %s", *arguments, exc_info=error)
    return stream.getvalue()


def test_a_message_is_one_line_of_the_log() -> None:
    text = logged(OneLine("%(levelname)s %(message)s"), HOSTILE, 404)
    assert text.count("\n") == 1
    assert unsafe(text, keep="\n") is None
    assert "\\n2026-11-26" in text


def test_a_traceback_is_indented() -> None:
    first, *rest = logged(OneLine("%(levelname)s %(message)s"), "x", 1, error=True).rstrip("\n").split("\n")
    assert first == "ERROR x -> 1"
    assert rest
    assert all(line.startswith("    ") for line in rest)
    assert unsafe("".join(rest)) is None


def test_both_formats_of_the_services_are_safe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    kept, level = root.handlers, root.level
    root.handlers = []  # pytest's keep the text as it is, and tell it to a process that takes no lone surrogates
    try:
        for as_json in (False, True):
            log.set_up(as_json)
            logging.getLogger("x").info("%s", HOSTILE)
            told = capsys.readouterr().err
            assert told.count("\n") == 1
            assert unsafe(told, keep="\n") is None
            assert not as_json or json.loads(told)["message"] == escaped(HOSTILE)
    finally:
        root.handlers = kept
        root.setLevel(level)


def test_an_error_quotes_nobody_unescaped() -> None:
    error = BadRequest(f"no volume {HOSTILE}")
    assert unsafe(error.message, keep="\n\t") is None
    assert "\\x1b[2J" in str(error)


def test_a_terminal_is_written_nothing_unsafe() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.write(f"name: {HOSTILE}\n")
    terminal.writelines([f"{HOSTILE}\n", "a", "b\n"])
    print(HOSTILE, file=terminal)
    assert stream.getvalue().count("\n") == HOSTILE.count("\n") * 3 + 4
    terminal.flush()
    assert unsafe(stream.getvalue(), keep="\n\t") is None
    assert terminal.encoding == stream.encoding
    assert sys.stdout is not terminal


@pytest.mark.parametrize(
    "document",
    [
        {"volume": {"name": "a\x1b[2J"}},
        {"attachment": {"connector": {"host": "a\nb"}}},
        {"volume": {"metadata": {"k": "\u202etxt.exe"}}},
        {"volume": {"availability_zone": "\x9bm"}},
        {"volume": {"scheduler_hints": {"a": ["b", "c\x00"]}}},
        {"volume": {"meta\u2028data": "x"}},
        {"volume": {"description": "a\x1bb"}},
    ],
)
def test_no_text_of_a_client_holds_control_characters(document: object) -> None:
    with pytest.raises(BadRequest, match=r"Invalid input for field/attribute \w.*: it holds \\"):
        body.parse(json.dumps(document).encode())


def test_prose_may_have_lines_and_names_every_script() -> None:
    document = {"volume": {"description": "one\n\ttwo", "name": "שלום 漢字 Grüße"}}
    assert body.parse(json.dumps(document).encode()) == document


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("Could not open '/srv/a b/volume-1': No such file", "Could not open 'volume-1': No such file"),
        ('{"filename": "/srv/x/volume-1"}', '{"filename": "volume-1"}'),
        ("qemu-img: /srv/x/volume-1: is read-only", "qemu-img: volume-1: is read-only"),
        ("cannot open /srv/x/volume-1", "cannot open volume-1"),
        ("file=/srv/x/volume-1,driver=qcow2", "file=volume-1,driver=qcow2"),
        ("a file in /srv/x/", "a file in x/"),
        ("mounting server:/export/a failed", "mounting server:/export/a failed"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("relative a/b/c, and/or 1/2", "relative a/b/c, and/or 1/2"),
        ("", ""),
    ],
)
def test_a_path_is_told_by_its_last_part(words: str, told: str) -> None:
    assert without_directories(words) == told

import sys
from types import SimpleNamespace

import pytest

from stillframe.errors import BadRequest
from stillframe.main import asking


@pytest.mark.parametrize(("answer", "agrees"), [("y", True), (" YES ", True), ("", False), ("n", False), ("yesterday", False)])
def test_the_person_decides(monkeypatch: pytest.MonkeyPatch, answer: str, agrees: bool) -> None:
    asked: list[str] = []
    said: list[str] = []

    def at_the_terminal(question: str) -> str:
        asked.append(question)
        return answer

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", at_the_terminal)
    assert asking.may("Forget it?", False, said.append) is agrees
    assert asked == ["Forget it? [y/N] "]
    assert said == ([] if agrees else ["nothing was done"])


def test_who_said_yes_beforehand_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    assert asking.may("Forget it?", True, lambda _words: None)


def test_a_program_that_nobody_can_ask_is_told_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(BadRequest, match="--yes"):
        asking.may("Forget it?", False, lambda _words: None)

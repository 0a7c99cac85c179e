"""Errors as OpenStack clients read them."""

import pytest

from stillframe.errors import Conflict, FileInUse, InternalError, StillframeError, catalogue
from stillframe.web import faults


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "badRequest"),
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "itemNotFound"),
        (405, "badMethod"),
        (409, "conflictingRequest"),
        (413, "overLimit"),
        (415, "badMediaType"),
        (502, "badGateway"),
        (503, "serviceUnavailable"),
        (500, "computeFault"),
        (406, "computeFault"),
    ],
)
def test_a_fault_has_the_name_clients_know(status: int, name: str) -> None:
    ((found, fault),) = faults.of_status(status, "m").items()
    assert (found, fault["code"]) == (name, status)


def test_a_fault_says_what_why_and_what_to_do_and_carries_the_details() -> None:
    ((_, fault),) = faults.of_error(Conflict("volume v is busy", operation_id="o")).items()
    assert fault == {
        "code": 409,
        "message": f"volume v is busy. {Conflict.hint}",
        "error_code": "conflict",
        "summary": "volume v is busy",
        "hint": Conflict.hint,
        "details": {"operation_id": "o"},
    }


@pytest.mark.parametrize(
    ("said", "told"), [("it is busy", "it is busy. "), ("It is busy.", "It is busy. "), ("Is it?", "Is it? "), ("", "")]
)
def test_the_message_is_sentences(said: str, told: str) -> None:
    ((_, fault),) = faults.of_error(Conflict(said)).items()
    assert fault["message"] == told + Conflict.hint


@pytest.mark.parametrize("kind", [kind for _, kind in sorted(catalogue().items())])
def test_no_fault_of_ours_tells_internals(kind: type[StillframeError]) -> None:
    ((_, fault),) = faults.of_error(kind("the canary")).items()
    assert ("canary" in fault["message"]) is ("canary" in fault["summary"]) is (kind.status != 500)
    assert (fault["error_code"], fault["hint"]) == (kind.code, kind.hint)


def test_a_500_keeps_its_details_to_itself() -> None:
    ((_, fault),) = faults.of_error(InternalError("m", libvirt_code=1)).items()
    assert fault["details"] == {}


def test_details_name_files_and_no_directory_of_the_host() -> None:
    users = ["a program that has '/srv/share/volume-1' open", "/srv/share/volume-2 is based on it"]
    ((_, fault),) = faults.of_error(FileInUse("m", users=users, paths={"a": ("/srv/b/c", 1, None)})).items()
    assert fault["details"] == {
        "users": ["a program that has 'volume-1' open", "volume-2 is based on it"],
        "paths": {"a": ["c", 1, None]},
    }


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 414, 415, 417, 431, 500, 501, 503, 505])
def test_what_was_refused_before_any_of_our_code_saw_it_has_a_code_and_a_hint(status: int) -> None:
    ((_, fault),) = faults.of_status(status, "m").items()
    kind = catalogue()[fault["error_code"]]
    assert (fault["code"], fault["summary"], fault["hint"], fault["details"]) == (status, "m", kind.hint, {})
    assert (kind.status >= 500) is (status >= 500 and status != 501)


def test_without_our_additions_a_fault_is_the_dialects_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one place that a strict client needs."""
    monkeypatch.setattr(faults, "additions", lambda *_: {})
    assert faults.of_error(Conflict("m", a=1)) == {"conflictingRequest": {"code": 409, "message": f"m. {Conflict.hint}"}}
    assert set(faults.of_status(405, "m")["badMethod"]) == {"code", "message"}

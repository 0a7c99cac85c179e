"""Answers that are refusals, in our words."""

from typing import Any

import pytest

from stillframe.client.faults import error_of
from stillframe.errors import (
    AccessRefused,
    BadRequest,
    Busy,
    Conflict,
    FileInUse,
    Forbidden,
    HostCommandFailed,
    HypervisorRefused,
    ImageLocked,
    NotFound,
    QuiesceRefused,
    ServiceFailed,
    ServiceUnavailable,
    StepFailed,
    StillframeError,
    Unauthorized,
)
from stillframe.web import faults
from tests.unit.client.fakes import Answer, fault

KINDS = {400: BadRequest, 401: Unauthorized, 403: Forbidden, 404: NotFound, 409: Conflict}


def told(error: StillframeError, **more: Any) -> Answer:
    ((name, fault),) = faults.of_error(error).items()
    return Answer(error.status, {name: {**fault, **more}})


@pytest.mark.parametrize(("status", "kind"), KINDS.items())
def test_each_status_becomes_its_kind_with_the_services_own_words(status: int, kind: type[StillframeError]) -> None:
    error = error_of(status, fault(status, "in its words"), "volume")
    assert type(error) is kind
    assert error.message == "in its words"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_service_in_trouble_may_be_asked_again(status: int) -> None:
    error = error_of(status, fault(status, "m"), "volume")
    assert isinstance(error, ServiceUnavailable)
    assert error.may_retry


@pytest.mark.parametrize("status", [500, 501, 505])
def test_a_defect_of_the_other_service_is_told_and_is_not_waited_for(status: int) -> None:
    error = error_of(status, fault(status, "it met an unexpected error"), "volume")
    assert type(error) is ServiceFailed
    assert error.message == "the volume service had an internal error: it met an unexpected error"
    assert not error.may_retry


@pytest.mark.parametrize("status", [*KINDS, 406, 413, 415])
def test_what_is_the_callers_mistake_stays_one(status: int) -> None:
    error = error_of(status, fault(status, "m"), "volume")
    assert 400 <= error.status < 500
    assert not error.may_retry


@pytest.mark.parametrize(
    "answer",
    [
        Answer(409),
        Answer(409, text="<html>"),
        Answer(409, {}),
        Answer(409, {"a": {}, "b": {}}),
        Answer(409, {"a": "text"}),
        Answer(409, {"a": {"code": 409}}),
        Answer(409, []),
        Answer(409, None),
        Answer(409, "text"),
        Answer(409, {"a": None}),
    ],
)
def test_an_error_that_is_no_fault_is_told_by_its_status(answer: Answer) -> None:
    error = error_of(409, answer, "volume")
    assert isinstance(error, Conflict)
    assert error.message == "the volume service answered 409"


@pytest.mark.parametrize("message", ["plain", "ends in [brackets]", "has [conflict: in] the middle", ""])
def test_a_message_crosses_our_services_without_growing(message: str) -> None:
    document = faults.of_error(Conflict(message))
    for _ in range(3):
        document = faults.of_error(error_of(409, Answer(409, document), "volume"))
    assert document == faults.of_error(Conflict(message))


def test_code_hint_and_details_are_read_where_the_service_put_them() -> None:
    error = error_of(409, told(FileInUse("it is used", users=["a"]), hint="Newer advice.", message="for people"), "volume")
    assert type(error) is Conflict
    assert (error.code, str(error)) == ("file_in_use", "it is used\nhint: Newer advice.")
    assert error.details == {"users": ["a"]}
    assert (Conflict.code, Conflict("m").hint) == ("conflict", Conflict.hint)


@pytest.mark.parametrize("code", ["quota_exceeded", "no_such_code", "", None, 7, ["busy"]])
def test_a_code_of_another_status_or_of_no_kind_changes_nothing(code: Any) -> None:
    error = error_of(409, told(Conflict("m"), error_code=code), "volume")
    assert (type(error), error.code, error.hint) == (Conflict, "conflict", Conflict.hint)


@pytest.mark.parametrize("more", [{"details": "text"}, {"details": None}, {"hint": None}, {"hint": 1}, {"summary": {}}])
def test_additions_of_another_shape_are_passed_over(more: dict[str, Any]) -> None:
    error = error_of(409, told(Conflict("m"), **more), "volume")
    assert (type(error), error.hint, error.details) == (Conflict, Conflict.hint, {})


@pytest.mark.parametrize("words", ["m [busy: wait]", "m [quiesce_refused: x]"])
def test_prose_is_never_read_for_a_code(words: str) -> None:
    error = error_of(409, fault(409, words), "compute")
    assert (type(error), error.message) == (Conflict, words)


def test_control_characters_of_a_hint_are_not_shown() -> None:
    assert "\x1b" not in str(error_of(409, told(Conflict("m"), hint="\x1b[2J"), "volume"))


@pytest.mark.parametrize(
    "kind",
    [
        AccessRefused,
        Busy,
        HostCommandFailed,
        HypervisorRefused,
        ImageLocked,
        QuiesceRefused,
        ServiceFailed,
        StepFailed,
    ],
)
def test_what_to_do_next_is_not_lost_on_the_way(kind: type[StillframeError]) -> None:
    error = error_of(kind.status, Answer(kind.status, faults.of_error(kind("why"))), "compute")
    assert type(error) is kind
    assert str(error) == f"why\nhint: {kind.hint}"


def test_words_and_details_without_end_are_not_kept() -> None:
    """They would be stored with an operation and told in every list."""
    error = error_of(409, fault(409, "m" * 5_000_000, details={"a": "d" * 5_000_000}), "volume")
    assert error.message == "m" * 4000
    assert error.details == {}


def test_a_fault_that_is_nested_too_deeply_is_none() -> None:
    answer = Answer(404, text='{"a":' * 100_000)
    assert isinstance(error_of(404, answer, "volume"), ServiceUnavailable)

"""Answers of the other service, in our words."""

from typing import Any

import pytest
from keystoneauth1 import exceptions
from requests import Response

from stillframe.client.session import Endpoint, Session, error_of
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

ENDPOINT = Endpoint("volume", "http://localhost:1/v3", "service", "canary", "3.71")
KINDS = {400: BadRequest, 401: Unauthorized, 403: Forbidden, 404: NotFound, 409: Conflict}


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
    assert error.message == "the volume service met an error of its own: it met an unexpected error"
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


def told(error: StillframeError, **more: Any) -> Answer:
    ((name, fault),) = faults.of_error(error).items()
    return Answer(error.status, {name: {**fault, **more}})


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


def test_the_other_services_details_stand_beside_none_of_our_own() -> None:
    """What an operation does next depends on details such as ``begun``."""
    with pytest.raises(Busy) as refused:
        session(told(Busy("m", begun=True)))[0].call("DELETE", "/snapshots/x")
    assert refused.value.details == {"volume": {"begun": True}}


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


class Adapter:
    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self.sent: list[dict[str, Any]] = []

    def request(self, path: str, method: str, **more: Any) -> Any:
        self.sent.append({"path": path, "method": method, **more})
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def session(answer: Any) -> tuple[Session, Adapter]:
    made, adapter = Session(ENDPOINT), Adapter(answer)
    vars(made)["_adapter"] = adapter
    return made, adapter


def test_a_call_carries_the_version_and_the_body() -> None:
    made, adapter = session(Answer(200, {"a": 1}))
    assert made.call("POST", "/volumes", {"b": 2}) == {"a": 1}
    headers = {"OpenStack-API-Version": "volume 3.71"}
    assert adapter.sent == [{"path": "/volumes", "method": "POST", "json": {"b": 2}, "headers": headers}]


def test_an_answer_without_a_body_is_none() -> None:
    assert session(Answer(202))[0].call("DELETE", "/volumes/x") is None


def test_an_error_is_raised_as_its_kind() -> None:
    with pytest.raises(NotFound, match="gone"):
        session(fault(404, "gone", "volume 3.71"))[0].call("GET", "/volumes/x")


@pytest.mark.parametrize("says", ["", "compute 2.100", "identity 3.71", "compute 2.1, identity 3.9"])
def test_another_service_does_not_say_that_anything_is_gone(says: str) -> None:
    """Its words are the same: a proxy, or an address in a file, that leads to the wrong one of the two."""
    with pytest.raises(ServiceUnavailable, match="not in the name of the volume service"):
        session(fault(404, "could not be found", says))[0].call("GET", "/volumes/x")


def test_among_several_versions_the_services_own_counts() -> None:
    with pytest.raises(NotFound):
        session(fault(404, "gone", "compute 2.1, volume 3.71"))[0].call("GET", "/volumes/x")


def test_a_path_that_the_service_does_not_have_says_nothing_of_what_was_asked_about() -> None:
    """A service of an older release, in the middle of an upgrade."""
    answer = fault(404, "The resource could not be found.", "volume 3.71", error_code="path_not_found")
    with pytest.raises(ServiceUnavailable, match="of another release"):
        session(answer)[0].call("GET", "/new/x")


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ConnectFailure("refused"),
        exceptions.ConnectTimeout("slow"),
        exceptions.UnknownConnectionError("cut off in the middle", OSError()),
        exceptions.ConnectionError("no"),
    ],
)
def test_a_service_that_cannot_be_reached_or_breaks_off_may_be_asked_again(error: Exception) -> None:
    with pytest.raises(ServiceUnavailable, match="volume service does not answer"):
        session(error)[0].call("GET", "/volumes/x")


def test_a_keystone_that_gives_no_token_may_be_asked_again() -> None:
    with pytest.raises(ServiceUnavailable, match="Keystone gives no token for the volume service"):
        session(exceptions.Unauthorized("wrong password"))[0].call("GET", "/volumes/x")


def test_the_password_is_in_no_error() -> None:
    with pytest.raises(ServiceUnavailable) as told:
        session(exceptions.ConnectFailure("refused"))[0].call("GET", "/volumes/x")
    assert "canary" not in repr(told.value) + told.value.message


@pytest.mark.parametrize("error", [exceptions.InvalidResponse(Response()), exceptions.DiscoveryFailure("no versions")])
def test_a_keystone_that_answers_nonsense_may_be_asked_again(error: Exception) -> None:
    with pytest.raises(ServiceUnavailable, match="Keystone gives no token for the volume service"):
        session(error)[0].call("GET", "/volumes/x")


@pytest.mark.parametrize(
    "answer", [Answer(404), Answer(404, text="<html>"), Answer(404, {"message": "no route"}), Answer(200, text="<html>")]
)
def test_a_proxy_that_lost_the_service_does_not_say_that_anything_is_gone(answer: Answer) -> None:
    with pytest.raises(ServiceUnavailable, match="volume service does not answer: something else"):
        session(answer)[0].call("GET", "/volumes/x")

"""Answers of the other service, in our words."""

import time
from typing import Any

import pytest
from keystoneauth1 import exceptions
from requests import Response

from stillframe.errors import (
    Busy,
    NotFound,
    ServiceUnavailable,
)
from stillframe.service_client.session import Endpoint, Session
from stillframe.web import faults
from tests.unit.client.fakes import Answer, fault
from tests.unit.clocks import set_clock
from tests.unit.http_site import Site, answer

ENDPOINT = Endpoint("volume", "http://localhost:1/v3", "service", "canary", "3.71")


def test_the_other_services_details_stand_beside_none_of_our_own() -> None:
    """What an operation does next depends on details such as ``begun``."""
    with pytest.raises(Busy) as refused:
        session(Answer(409, faults.of_error(Busy("m", begun=True))))[0].call("DELETE", "/snapshots/x")
    assert refused.value.details == {"volume": {"begun": True}}


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
    headers = {"OpenStack-API-Version": "volume 3.71", "Stillframe-Additions": "1"}
    del adapter.sent[0]["rate_semaphore"]
    assert adapter.sent == [{"path": "/volumes", "method": "POST", "json": {"b": 2}, "headers": headers, "verify": True}]


def test_a_call_waits_for_no_clock_that_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keystone's library paces calls by the clock: each took an hour after a clock that was set back by an hour."""

    def sleep(seconds: float) -> None:
        raise AssertionError(f"it sleeps for {seconds} s")

    made, site = Session(ENDPOINT), Site(lambda _request: answer(200, {"a": 1}))
    made._adapter.session.session.mount("http://", site)
    monkeypatch.setattr(time, "sleep", sleep)
    for by in (3600.0, -7200.0):
        set_clock(monkeypatch, by)
        assert made.call("GET", "/volumes/x") == {"a": 1}
    assert len(site.asked) == 2


def test_an_answer_without_a_body_holds_nothing() -> None:
    told = session(Answer(202))[0].call("DELETE", "/volumes/x")
    assert told == {}
    with pytest.raises(ServiceUnavailable, match="its answer lacks 'volume'"):
        told["volume"]


@pytest.mark.parametrize("answer", [Answer(302), Answer(307, {"volume": {}}), Answer(200, []), Answer(200, "x")])
def test_a_redirect_and_what_is_no_object_are_no_answer(answer: Answer) -> None:
    with pytest.raises(ServiceUnavailable, match="something else at its endpoint"):
        session(answer)[0].call("GET", "/volumes/x")


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
    with pytest.raises(ServiceUnavailable, match="Keystone refuses a token for the volume service"):
        session(exceptions.Unauthorized("wrong password"))[0].call("GET", "/volumes/x")


def test_the_password_is_in_no_error() -> None:
    with pytest.raises(ServiceUnavailable) as told:
        session(exceptions.ConnectFailure("refused"))[0].call("GET", "/volumes/x")
    assert "canary" not in repr(told.value) + told.value.message


@pytest.mark.parametrize("error", [exceptions.InvalidResponse(Response()), exceptions.DiscoveryFailure("no versions")])
def test_a_keystone_that_answers_nonsense_may_be_asked_again(error: Exception) -> None:
    with pytest.raises(ServiceUnavailable, match="Keystone refuses a token for the volume service"):
        session(error)[0].call("GET", "/volumes/x")


@pytest.mark.parametrize(
    "answer", [Answer(404), Answer(404, text="<html>"), Answer(404, {"message": "no route"}), Answer(200, text="<html>")]
)
def test_a_proxy_that_lost_the_service_does_not_say_that_anything_is_gone(answer: Answer) -> None:
    with pytest.raises(ServiceUnavailable, match="volume service does not answer: something else"):
        session(answer)[0].call("GET", "/volumes/x")

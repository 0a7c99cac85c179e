"""Tokens: what Keystone says of them, how long that is believed, and what of a request is never believed."""

import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from oslo_policy.policy import RuleDefault

from stillframe import config
from stillframe.context import Context
from stillframe.errors import BadConfiguration, Forbidden, ServiceUnavailable, TooManyRequests, Unauthorized
from stillframe.web import keystone
from stillframe.web.keystone import KeystoneAuth
from stillframe.web.policy import ADMIN, SERVICE, Enforcer
from tests.unit.http_site import Answer, Site, answer

AUTH_URL = "http://keystone.example.org/v3"
PASSWORD = "canary-password"
OWN_TOKEN = "canary-own-token"
DAY = 86_400.0


def token(*roles: str, project: str | None = "demo", seconds: float = 30 * DAY, user: str = "ann") -> dict[str, Any]:
    """A token's document as Keystone shows it. It outlives any run of the tests: some are made when they are collected."""
    ends = datetime.now(UTC) + timedelta(seconds=seconds)
    scope = {"project": {"id": project, "name": "p"}} if project else {}
    return {
        "methods": ["password"],
        "user": {"id": user, "name": "n"},
        "roles": [{"id": f"id-{role}", "name": role} for role in roles],
        "expires_at": ends.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        **scope,
    }


class Keystone:
    """Signs our own user in and tells of the tokens it knows; ``answers`` replaces what it says by method."""

    def __init__(self, **tokens: dict[str, Any]) -> None:
        self.tokens = tokens
        self.answers: dict[str, Answer | Exception] = {}
        self.site = Site(self._respond)

    def _respond(self, request: requests.PreparedRequest) -> Answer | Exception:
        method = str(request.method)
        if method in self.answers:
            return self.answers[method]
        if method == "POST":
            return answer(201, {"token": token("service", project="service")}, X__Subject__Token=OWN_TOKEN)
        found = self.tokens.get(str(request.headers["X-Subject-Token"]))
        return answer(200, {"token": found}) if found else answer(404, {"error": {"message": "no"}})

    @property
    def questions(self) -> int:
        return sum(request.method == "GET" for request in self.site.asked)


Make = Callable[..., KeystoneAuth]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text(f"{PASSWORD}\n")

    def made(known: Keystone, **more: Any) -> KeystoneAuth:
        options = {"auth_url": AUTH_URL, "username": "stillframe", "password_file": str(secret), **more}
        settings = config.load(overrides={("keystone", name): value for name, value in options.items()})
        auth = KeystoneAuth(settings.keystone)
        auth._session.session.mount("http://", known.site)
        return auth

    return made


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(keystone, "time", made)
    return made


def test_a_token_tells_who_it_is(make: Make) -> None:
    known = Keystone(t1=token("member", "reader"))
    found = make(known).identify({"x-auth-token": "t1"}, "req-1")
    assert (found.user_id, found.project_id, found.roles, found.request_id) == ("ann", "demo", ("member", "reader"), "req-1")
    assert not found.with_service_token
    question = known.site.asked[-1]
    assert question.url == f"{AUTH_URL}/auth/tokens?nocatalog"
    assert (question.headers["X-Auth-Token"], question.headers["X-Subject-Token"]) == (OWN_TOKEN, "t1")


def test_the_url_may_be_given_without_its_version(make: Make) -> None:
    known = Keystone(t1=token("reader"))
    make(known, auth_url="http://keystone.example.org/").identify({"x-auth-token": "t1"}, "req-1")
    assert known.site.asked[-1].url == f"{AUTH_URL}/auth/tokens?nocatalog"


def test_our_own_user_signs_in_with_the_password_of_the_file(make: Make) -> None:
    known = Keystone(t1=token("reader"))
    make(known).identify({"x-auth-token": "t1"}, "req-1")
    sent = json.loads(known.site.bodies[0])["auth"]
    assert sent["identity"]["password"]["user"] == {
        "name": "stillframe",
        "password": PASSWORD,
        "domain": {"name": "Default"},
    }
    assert sent["scope"]["project"] == {"name": "service", "domain": {"name": "Default"}}


def test_headers_in_which_a_client_claims_an_identity_are_not_looked_at(make: Make) -> None:
    claimed = {
        "x-user-id": "root",
        "x-project-id": "other",
        "x-roles": "admin,service",
        "x-service-roles": "service",
        "x-identity-status": "Confirmed",
        "x-service-identity-status": "Confirmed",
        "x-is-admin-project": "True",
        "openstack-system-scope": "all",
        "authorization": "Basic YWRtaW46YWRtaW4=",
    }
    known = Keystone(t1=token("reader"))
    found = make(known).identify({**claimed, "x-auth-token": "t1"}, "req-1")
    assert (found.user_id, found.project_id, found.roles, found.has_service_identity) == ("ann", "demo", ("reader",), False)
    with pytest.raises(Unauthorized):
        make(known).identify(claimed, "req-1")


@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic eA=="}, {"x-service-token": "service"}])
def test_without_a_token_keystone_is_not_asked(make: Make, headers: dict[str, str]) -> None:
    known = Keystone(service=token("service"))
    with pytest.raises(Unauthorized, match="X-Auth-Token"):
        make(known).identify(headers, "req-1")
    assert known.site.asked == []


@pytest.mark.parametrize("text", ["", " ", "a b", "a\tb", "a\x00", "a\x7f", "é", "a" * 16385, "t1, t2"])
def test_a_token_that_cannot_be_one_is_never_sent(make: Make, text: str) -> None:
    known = Keystone(t1=token("reader"))
    with pytest.raises(Unauthorized, match="not well formed"):
        make(known).identify({"x-auth-token": text}, "req-1")
    assert known.site.asked == []


@given(st.text(max_size=40))
def test_no_header_can_do_more_than_be_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    secret = tmp_path_factory.getbasetemp() / "secret"
    secret.touch(mode=0o600)
    secret.write_text("p")
    options = {"auth_url": AUTH_URL, "username": "u", "password_file": str(secret)}
    auth = KeystoneAuth(config.load(overrides={("keystone", name): value for name, value in options.items()}).keystone)
    auth._session.session.mount("http://", Keystone().site)
    with pytest.raises(Unauthorized):
        auth.identify({"x-auth-token": text}, "req-1")


@pytest.mark.parametrize(
    ("known", "kind"),
    [
        (Keystone(), Unauthorized),
        (Keystone(t1=token("reader", seconds=-1)), Unauthorized),
        (Keystone(t1=token("admin", project=None)), Forbidden),
    ],
    ids=["unknown", "expired", "no project"],
)
def test_a_token_that_is_refused_is_asked_about_once_in_a_while(
    make: Make, clock: Clock, known: Keystone, kind: type[Exception]
) -> None:
    """Each request with it cost Keystone a look."""
    auth = make(known)
    before = known.questions
    for _ in range(10):
        with pytest.raises(kind):
            auth.identify({"x-auth-token": "t1"}, "req-1")
    assert known.questions == before + 1
    known.tokens["t1"] = token("reader")  # Keystone has heard of it now
    clock.now += keystone.REFUSED_SECONDS
    assert auth.identify({"x-auth-token": "t1"}, "req-1").user_id == "ann"


def test_tokens_nobody_knows_take_no_room_without_end(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keystone, "MOST_REMEMBERED", 10)
    known = Keystone(t1=token("reader"))
    auth = make(known)
    auth.identify({"x-auth-token": "t1"}, "req-1")
    for number in range(100):
        with pytest.raises(Unauthorized):
            auth.identify({"x-auth-token": f"canary{number}"}, "req-1")
    assert len(auth._refused) == 10
    assert "canary" not in repr(auth._refused)
    questions = known.questions
    auth.identify({"x-auth-token": "t1"}, "req-1")  # and none from those that are known
    assert known.questions == questions


def test_while_a_peer_has_many_tokens_asked_about_those_that_are_known_pass(make: Make) -> None:
    known = Keystone(t1=token("reader"))
    auth = make(known)
    auth.identify({"x-auth-token": "t1"}, "req-1", "192.0.2.1")
    auth._questions._peers["192.0.2.1"] = 4
    for _ in range(2):
        with pytest.raises(TooManyRequests):
            auth.identify({"x-auth-token": "made-up"}, "req-1", "192.0.2.1")
    assert known.questions == 1
    auth.identify({"x-auth-token": "t1"}, "req-1", "192.0.2.1")


def test_a_token_that_has_expired_is_refused_whatever_keystone_says(make: Make) -> None:
    with pytest.raises(Unauthorized, match="expired"):
        make(Keystone(t1=token("reader", seconds=-1))).identify({"x-auth-token": "t1"}, "req-1")


def test_a_token_without_a_project_is_forbidden(make: Make) -> None:
    with pytest.raises(Forbidden, match="not scoped to a project"):
        make(Keystone(t1=token("admin", project=None))).identify({"x-auth-token": "t1"}, "req-1")


# What a service may


def test_a_service_is_known_by_its_own_role(make: Make) -> None:
    found = make(Keystone(s=token("service", project="service"))).identify({"x-auth-token": "s"}, "req-1")
    assert (found.is_service, found.has_service_identity, found.sees_all_projects) == (True, True, True)


def test_a_service_token_lets_a_service_act_for_a_user_and_see_no_more(make: Make) -> None:
    known = Keystone(u=token("member", "reader"), s=token("service", "admin", project="service", user="nova"))
    found = make(known).identify({"x-auth-token": "u", "x-service-token": "s"}, "req-1")
    assert (found.user_id, found.project_id, found.roles) == ("ann", "demo", ("member", "reader"))
    assert (found.has_service_identity, found.is_service, found.is_admin, found.sees_all_projects) == (
        True,
        False,
        False,
        False,
    )


def test_a_token_of_a_user_that_is_no_service_counts_for_nothing_as_a_service_token(make: Make) -> None:
    known = Keystone(u=token("member"), s=token("admin", "services", "Service"))
    found = make(known).identify({"x-auth-token": "u", "x-service-token": "s"}, "req-1")
    assert not found.has_service_identity


@pytest.mark.parametrize("text", ["unknown", "", "a b"])
def test_a_service_token_that_is_not_valid_is_refused(make: Make, text: str) -> None:
    with pytest.raises(Unauthorized, match="X-Service-Token"):
        make(Keystone(u=token("member"))).identify({"x-auth-token": "u", "x-service-token": text}, "req-1")


@pytest.mark.parametrize(("vouched", "allowed"), [(True, True), (False, False)])
def test_policy_takes_a_service_token_for_the_service_role_and_no_other(vouched: bool, allowed: bool) -> None:
    rules = [RuleDefault("for services", SERVICE, "x"), RuleDefault("for admins", ADMIN, "x")]
    who = Context("ann", "demo", ("member",), "req-1", vouched)
    with nullcontext() if allowed else pytest.raises(Forbidden):
        Enforcer(rules).check("for services", who)
    with pytest.raises(Forbidden):
        Enforcer(rules).check("for admins", who)


# How long it is believed


def test_a_valid_token_is_believed_for_a_minute_and_a_revoked_one_no_longer(make: Make, clock: Clock) -> None:
    known = Keystone(t1=token("reader"))
    auth = make(known)
    auth.identify({"x-auth-token": "t1"}, "req-1")
    del known.tokens["t1"]
    clock.now += 59
    assert auth.identify({"x-auth-token": "t1"}, "req-2").request_id == "req-2"
    assert known.questions == 1
    clock.now += 2
    with pytest.raises(Unauthorized):
        auth.identify({"x-auth-token": "t1"}, "req-3")


def test_a_token_is_not_believed_longer_than_it_lives(make: Make, clock: Clock) -> None:
    known = Keystone(t1=token("reader", seconds=10))
    auth = make(known)
    auth.identify({"x-auth-token": "t1"}, "req-1")
    clock.now += 11
    auth.identify({"x-auth-token": "t1"}, "req-1")
    assert known.questions == 2


def test_nothing_is_remembered_when_so_configured(make: Make) -> None:
    known = Keystone(t1=token("reader"))
    auth = make(known, cache_seconds=0)
    for _ in range(3):
        auth.identify({"x-auth-token": "t1"}, "req-1")
    assert known.questions == 3


def test_what_is_remembered_is_neither_the_token_nor_endless(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keystone, "MOST_REMEMBERED", 10)
    known = Keystone(**{f"canary{number}": token("reader") for number in range(100)})
    auth = make(known)
    for name in known.tokens:
        auth.identify({"x-auth-token": name}, "req-1")
        assert len(auth._known) <= 10
    assert "canary" not in repr(auth._known)
    assert b"canary" not in b"".join(auth._known)


def test_two_services_remember_under_different_keys(make: Make) -> None:
    first, second = make(Keystone(t=token("reader"))), make(Keystone(t=token("reader")))
    for auth in (first, second):
        auth.identify({"x-auth-token": "t"}, "req-1")
    assert set(first._known).isdisjoint(second._known)


# When Keystone does not say

_OWN = {"X__Subject__Token": OWN_TOKEN}
_ENDS: tuple[Any, ...] = (5, None, "soon", [], "9" * 99)
NO_TOKENS = (
    answer(201, {"token": token("service")}),  # the header is missing
    answer(201, b"null", **_OWN),
    answer(201, b"[" * 200_000, **_OWN),
    answer(201, {"token": []}, **_OWN),
    answer(201, {"token": None}, **_OWN),
    *(answer(201, {"token": {**token("service"), "expires_at": odd}}, **_OWN) for odd in _ENDS),
)


@pytest.mark.parametrize(
    ("method", "said", "words"),
    [
        ("GET", requests.ConnectionError("refused"), "does not answer"),
        ("GET", requests.Timeout("slow"), "does not answer"),
        ("POST", requests.ConnectionError("refused"), "does not answer"),
        ("POST", answer(401, {"error": {"message": "wrong"}}), "refuses a token to Stillframe's own user: 401"),
        ("POST", answer(503), "refuses a token to Stillframe's own user: 503"),
        *(("POST", said, "does not answer: its answer is not a token") for said in NO_TOKENS),
        ("POST", answer(500, b"[" * 200_000, Content__Type="application/json"), "does not answer: its answer is not a token"),
        ("GET", answer(401), "needs the role service"),
        ("GET", answer(403), "needs the role service"),
        ("GET", answer(500), "500"),
        ("GET", answer(302, None, Location="http://elsewhere.example.org/"), "302"),
        ("GET", answer(200, b"<html>"), "not a token"),
        ("GET", answer(200, {}), "not a token"),
        ("GET", answer(200, []), "not a token"),
        ("GET", answer(200, {"token": {}}), "not a token"),
        ("GET", answer(200, {"token": []}), "not a token"),
        ("GET", answer(200, {"token": {**token("reader"), "project": None}}), "not a token"),
        ("GET", answer(200, {"token": {**token("reader"), "expires_at": "soon"}}), "not a token"),
        ("GET", answer(200, {"token": {**token("reader"), "user": "ann"}}), "not a token"),
    ],
)
def test_silence_is_never_taken_for_an_answer(make: Make, method: str, said: Any, words: str) -> None:
    known = Keystone(t1=token("reader"))
    known.answers[method] = said
    with pytest.raises(ServiceUnavailable, match=words):
        make(known).identify({"x-auth-token": "t1"}, "req-1")


ODD: tuple[Any, ...] = (None, 1, True, [], {}, "", "x" * 256, "a\nb", "\ud800", "\u202e", "../x", "a/b", "a b", ["a"], {"a": 1})


@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_who_it_is_stands_there_as_a_name_or_is_not_known(make: Make, odd: Any) -> None:
    """Made into text, none became the project "None", in which all met whose tokens had none."""
    for part in ("user", "project"):
        known = Keystone(t1={**token("reader"), part: {"id": odd}})
        with pytest.raises(ServiceUnavailable, match="not a token"):
            make(known).identify({"x-auth-token": "t1"}, "req-1")


@pytest.mark.parametrize(
    "odd", [None, {}, "admin", ["admin"], [{}], [{"name": None}], [{"name": ["admin"]}], [{"name": ""}]], ids=ascii
)
def test_roles_are_names_or_the_token_is_none(make: Make, odd: Any) -> None:
    with pytest.raises(ServiceUnavailable, match="not a token"):
        make(Keystone(t1={**token("reader"), "roles": odd})).identify({"x-auth-token": "t1"}, "req-1")


def test_a_redirect_is_never_followed(make: Make) -> None:
    known = Keystone(t1=token("reader"))
    known.answers["GET"] = answer(307, None, Location="http://elsewhere.example.org/")
    with pytest.raises(ServiceUnavailable):
        make(known).identify({"x-auth-token": "t1"}, "req-1")
    assert {str(request.url).split("/")[2] for request in known.site.asked} == {"keystone.example.org"}


def test_while_keystone_is_away_what_is_known_is_known(make: Make) -> None:
    known = Keystone(t1=token("reader"))
    auth = make(known)
    auth.identify({"x-auth-token": "t1"}, "req-1")
    known.answers["GET"] = requests.ConnectionError("refused")
    auth.identify({"x-auth-token": "t1"}, "req-1")
    with pytest.raises(ServiceUnavailable):
        auth.identify({"x-auth-token": "t2"}, "req-1")


def test_our_own_token_is_renewed_when_keystone_no_longer_takes_it(make: Make) -> None:
    known = Keystone(t1=token("reader"))
    said = [answer(401), answer(200, {"token": token("reader")})]
    known.site._respond = lambda request: known._respond(request) if request.method == "POST" else said.pop(0)
    make(known).identify({"x-auth-token": "t1"}, "req-1")
    assert [path.split()[0] for path in known.site.paths] == ["POST", "GET", "POST", "GET"]


def test_neither_password_nor_token_is_in_a_log_or_an_error(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    known = Keystone()
    with caplog.at_level(logging.DEBUG):
        auth = make(known)
        with pytest.raises(Unauthorized) as refused:
            auth.identify({"x-auth-token": "canary-of-the-caller"}, "req-1")
        known.answers = {"GET": answer(500, {"error": "canary"})}
        with pytest.raises(ServiceUnavailable) as away:
            auth.identify({"x-auth-token": "canary-of-another-caller"}, "req-1")
    assert "canary" not in caplog.text + repr(refused.value) + repr(away.value)


# Configuration


def test_what_a_401_says_is_where_keystone_is(make: Make) -> None:
    assert make(Keystone()).challenge == f'Keystone uri="{AUTH_URL}"'
    told = make(Keystone(), www_authenticate_uri="https://public.example.org/v3")
    assert told.challenge == 'Keystone uri="https://public.example.org/v3"'


@pytest.mark.parametrize("missing", ["auth_url", "username", "password_file"])
def test_what_is_missing_is_named(make: Make, missing: str) -> None:
    with pytest.raises(BadConfiguration, match=missing):
        make(Keystone(), **{missing: None})

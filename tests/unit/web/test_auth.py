"""Who sends a request: passwords, the cache in front of them, and the users file."""

import base64
import os
import stat
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from stillframe.errors import BadConfiguration, TooManyRequests, Unauthorized
from stillframe.web import auth
from stillframe.web.auth import BasicAuth, write_users

USER = {"name": "ann", "password": "secret", "user_id": "u1", "project_id": "demo", "roles": ["member", "reader"]}

DECOY = auth._NOBODY


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def checks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """bcrypt at its cheapest; the list holds each password it was asked about."""
    real_salt, real_check = bcrypt.gensalt, bcrypt.checkpw
    found: list[bytes] = []

    def check(password: bytes, stored: bytes) -> bool:
        found.append(password)
        return real_check(password, stored)

    monkeypatch.setattr(bcrypt, "gensalt", lambda _rounds: real_salt(4))
    monkeypatch.setattr(auth, "_NOBODY", bcrypt.hashpw(b"nobody", real_salt(4)))
    monkeypatch.setattr(bcrypt, "checkpw", check)
    return found


def test_an_unknown_name_costs_as_many_rounds_as_a_known_one() -> None:
    assert DECOY.split(b"$")[2] == b"%d" % auth.ROUNDS


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(auth, "time", made)
    return made


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users.yaml"
    write_users(path, [USER])
    return path


def header(name: str, password: str) -> dict[str, str]:
    return sent("Basic " + base64.b64encode(f"{name}:{password}".encode()).decode())


def sent(text: str | None) -> dict[str, str]:
    return {} if text is None else {"authorization": text}


def change(path: Path, users: list[dict[str, Any]]) -> None:
    stamp = path.stat().st_mtime
    write_users(path, users)
    os.utime(path, (stamp + 1, stamp + 1))


def test_the_right_password_tells_who_it_is(users: Path) -> None:
    found = BasicAuth(users).identify(header("ann", "secret"), "req-1")
    assert (found.user_id, found.project_id, found.roles, found.request_id) == ("u1", "demo", ("member", "reader"), "req-1")


@pytest.mark.parametrize("scheme", ["basic", "BASIC"])
def test_the_scheme_is_read_in_any_case(users: Path, scheme: str) -> None:
    BasicAuth(users).identify(sent(header("ann", "secret")["authorization"].replace("Basic", scheme)), "req-1")


@pytest.mark.parametrize(
    ("name", "password"), [("ann", "wrong"), ("ann", ""), ("nobody", "secret"), ("nobody", "nobody"), ("", "")]
)
def test_a_wrong_password_and_an_unknown_user_are_told_alike(users: Path, name: str, password: str) -> None:
    with pytest.raises(Unauthorized) as told:
        BasicAuth(users).identify(header(name, password), "req-1")
    assert told.value.message == "user name or password is wrong"


def test_an_unknown_user_costs_as_much_as_a_wrong_password(users: Path, checks: list[bytes]) -> None:
    checked = BasicAuth(users)
    for name in ("ann", "nobody"):
        with pytest.raises(Unauthorized):
            checked.identify(header(name, "wrong"), "req-1")
    assert checks == [b"wrong", b"wrong"]


@pytest.mark.parametrize("password", ["a\0b", "x" * 100, "ä" * 40, "a:b", " "])
def test_a_strange_password_is_only_wrong(users: Path, password: str) -> None:
    with pytest.raises(Unauthorized):
        BasicAuth(users).identify(header("ann", password), "req-1")


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Bearer abc",
        "Basic !!!",
        "Basic YQ",
        "Basic YW5uOnNlY3JldA==  ",
        "Basic \xe9\xe9\xe9\xe9",
        "Basic " + base64.b64encode(b"\xff\xfe:x").decode(),
        "Basic " + base64.b64encode(b"no colon").decode(),
    ],
)
def test_a_header_that_is_missing_or_broken_is_unauthorized(users: Path, text: str | None) -> None:
    with pytest.raises(Unauthorized):
        BasicAuth(users).identify(sent(text), "req-1")


@given(st.text(st.characters(max_codepoint=255), max_size=40))
@example("\x80")
def test_no_header_at_all_can_do_more_than_be_refused(text: str) -> None:
    with pytest.raises(Unauthorized):
        auth._credentials(f"Digest {text}")
    try:
        name, password = auth._credentials(f"Basic {text}")
    except Unauthorized:
        return
    assert isinstance(name, str)
    assert isinstance(password, bytes)


def test_a_right_password_is_remembered_for_a_minute(users: Path, clock: Clock, checks: list[bytes]) -> None:
    checked = BasicAuth(users)
    for moment in (0.0, auth.REMEMBER_SECONDS - 1):
        clock.now = 100.0 + moment
        checked.identify(header("ann", "secret"), "req-1")
    assert len(checks) == 1
    clock.now = 100.0 + auth.REMEMBER_SECONDS
    checked.identify(header("ann", "secret"), "req-1")
    assert len(checks) == 2


def test_a_wrong_password_is_not_remembered_and_a_right_one_does_not_help_it(
    users: Path, clock: Clock, checks: list[bytes]
) -> None:
    checked = BasicAuth(users)
    checked.identify(header("ann", "secret"), "req-1")
    for _ in range(2):
        with pytest.raises(Unauthorized):
            checked.identify(header("ann", "wrong"), "req-1")
    assert len(checks) == 3


def test_what_is_remembered_is_forgotten_when_it_is_over(users: Path, clock: Clock) -> None:
    checked = BasicAuth(users)
    write_users(users, [USER, {**USER, "name": "bob"}])
    for name in ("ann", "bob"):
        checked.identify(header(name, "secret"), "req-1")
        clock.now += auth.REMEMBER_SECONDS + 1
    assert len(checked._known) == 1


def test_the_password_itself_is_not_kept(users: Path, clock: Clock) -> None:
    checked = BasicAuth(users)
    checked.identify(header("ann", "secret"), "req-1")
    assert not any(b"secret" in digest for digest in checked._known)


def test_a_changed_password_counts_at_once(users: Path, clock: Clock) -> None:
    checked = BasicAuth(users)
    checked.identify(header("ann", "secret"), "req-1")
    change(users, [{**USER, "password": "new"}])
    with pytest.raises(Unauthorized):
        checked.identify(header("ann", "secret"), "req-1")
    checked.identify(header("ann", "new"), "req-1")


def test_a_user_taken_out_of_the_file_is_out_at_once_and_new_roles_count(users: Path, clock: Clock) -> None:
    checked = BasicAuth(users)
    checked.identify(header("ann", "secret"), "req-1")
    content = yaml.safe_load(users.read_text())
    users.write_text(yaml.safe_dump([{**content[0], "roles": ["reader"]}]))
    os.utime(users, (1, 1))
    assert checked.identify(header("ann", "secret"), "req-1").roles == ("reader",)
    change(users, [{**USER, "name": "bob"}])
    with pytest.raises(Unauthorized):
        checked.identify(header("ann", "secret"), "req-1")


@pytest.mark.parametrize("content", ["", "- 1", "a: b", "- {name: ann}", "[", "\0"])
def test_a_users_file_that_cannot_be_read_lets_nobody_in(tmp_path: Path, content: str) -> None:
    path = tmp_path / "users.yaml"
    path.write_text(content)
    with pytest.raises(BadConfiguration, match="users file"):
        BasicAuth(path).identify(header("ann", "secret"), "req-1")


def test_a_missing_users_file_lets_nobody_in(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration):
        BasicAuth(tmp_path / "missing").identify(header("ann", "secret"), "req-1")


def test_the_users_file_is_the_owners_alone_and_holds_no_password(users: Path) -> None:
    assert stat.S_IMODE(users.stat().st_mode) == 0o600
    assert "secret" not in users.read_text()


def guess(checked: BasicAuth, count: int, name: str | None = None) -> int:
    """Sends wrong passwords; returns how many were refused without a look."""
    refused = 0
    for number in range(count):
        try:
            checked.identify(header(name or f"n{number}", "wrong"), "req-1", "192.0.2.1")
        except TooManyRequests:
            refused += 1
        except Unauthorized:
            pass
    return refused


@pytest.mark.parametrize("name", ["ann", "nobody", None])
def test_wrong_passwords_without_end_cost_a_bounded_number_of_checks(
    users: Path, clock: Clock, checks: list[bytes], name: str | None
) -> None:
    refused = guess(BasicAuth(users), 300, name)
    assert len(checks) <= 80
    assert refused == 300 - len(checks)


def test_who_was_right_is_not_held_up_by_who_guesses_beside_it(users: Path, clock: Clock, checks: list[bytes]) -> None:
    checked = BasicAuth(users)
    checked.identify(header("ann", "secret"), "req-1", "192.0.2.1")
    assert guess(checked, 300) and guess(checked, 300, "ann")
    for _ in range(2):
        clock.now += auth.REMEMBER_SECONDS + 1
        assert checked.identify(header("ann", "secret"), "req-1", "192.0.2.1").user_id == "u1"
    with pytest.raises(TooManyRequests):
        checked.identify(header("ann", "wrong"), "req-1", "192.0.2.1")

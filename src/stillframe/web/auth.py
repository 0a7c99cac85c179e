"""Identifies who sends a request.

http_basic: users, roles and projects come from ``users.yaml`` in the state directory, where passwords are hashed. bcrypt takes
about 80 ms a check, so a successful check is remembered for a minute under a keyed digest; the passwords themselves are not
kept. Checks that may be guesses are limited (``guesses``). A password that was right within a day does not count as a guess, so
nobody can lock a client out by guessing beside it.
"""

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import bcrypt
import yaml

from stillframe.context import Context
from stillframe.errors import BadConfiguration, Unauthorized
from stillframe.web.guesses import Guesses

REMEMBER_SECONDS = 60.0
PROVEN_SECONDS = 86400.0
MOST_PROVEN = 10_000
ROUNDS = 10
_NOBODY = b"$2b$10$pB8.t67s5V7HO9TskaIrVumkYWVfZfbBNTj9SS8c.m6q280NmNgyO"  # of lost random bytes; as slow
_REFUSED = "user name or password is wrong"


Headers = Mapping[str, str]  # headers by name in lower case


class Authenticator(Protocol):
    """Identifies who sends a request. ``challenge`` is what a 401 says in WWW-Authenticate."""

    challenge: str

    def identify(self, headers: Headers, request_id: str, peer: str = "") -> Context:
        """Returns the context of the user behind a request's headers; ``peer`` is the address it came from. Raises
        Unauthorized, and TooManyRequests for a caller that guesses."""
        ...


@dataclass(frozen=True)
class User:
    name: str
    user_id: str
    project_id: str
    roles: tuple[str, ...]
    password_hash: bytes


class BasicAuth:
    """Identifies who sends a request. The users file is read again when it changes."""

    challenge = 'Basic realm="stillframe"'

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = secrets.token_bytes(32)
        self._known: dict[bytes, float] = {}
        self._proven: dict[bytes, float] = {}
        self._guesses = Guesses()
        self._lock = threading.Lock()
        self._users: Mapping[str, User] = {}
        self._stamp = 0.0

    def identify(self, headers: Headers, request_id: str, peer: str = "") -> Context:
        """Returns the context of the user behind an Authorization header. Raises Unauthorized; TooManyRequests."""
        name, password = _credentials(headers.get("authorization"))
        user = self._current_users().get(name)
        if not self._matches(user, name, password, peer):
            raise Unauthorized(_REFUSED)
        assert user is not None
        return Context(user.user_id, user.project_id, user.roles, request_id)

    def _matches(self, user: User | None, name: str, password: bytes, peer: str) -> bool:
        stored = user.password_hash if user else _NOBODY
        digest = hmac.digest(self._key, stored + name.encode() + b"\0" + password, hashlib.sha256)
        with self._lock:
            if self._known.get(digest, 0.0) > time.monotonic():
                return True
            proven = self._proven.get(digest, 0.0) > time.monotonic()
        if not proven:
            self._guesses.begin(peer, name)
        # An unknown name takes as much time as a wrong password.
        if not bcrypt.checkpw(password[:72], stored) or user is None:
            return False
        if not proven:
            self._guesses.right(peer, name)
        self._remember(digest)
        return True

    def _remember(self, digest: bytes) -> None:
        with self._lock:
            self._known = {known: end for known, end in self._known.items() if end > time.monotonic()}
            self._known[digest] = time.monotonic() + REMEMBER_SECONDS
            self._proven.pop(digest, None)
            while len(self._proven) >= MOST_PROVEN:
                del self._proven[next(iter(self._proven))]
            self._proven[digest] = time.monotonic() + PROVEN_SECONDS

    def _current_users(self) -> Mapping[str, User]:
        try:
            stamp = self._path.stat().st_mtime
            if stamp != self._stamp:
                self._users = {user.name: user for user in _read(self._path)}
                self._stamp = stamp
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            raise BadConfiguration(f"the users file {self._path} cannot be read: {error}") from error
        return self._users


def _credentials(authorization: str | None) -> tuple[str, bytes]:
    scheme, _, text = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        raise Unauthorized("this service requires HTTP basic authentication")
    try:
        name, _, password = base64.b64decode(text, validate=True).partition(b":")
        return name.decode(), password
    except (binascii.Error, ValueError) as error:
        raise Unauthorized("the Authorization header is not well formed") from error


def _read(path: Path) -> list[User]:
    document: list[dict[str, Any]] = yaml.safe_load(path.read_text())
    return [
        User(
            entry["name"],
            entry["user_id"],
            entry["project_id"],
            tuple(entry["roles"]),
            entry["password_hash"].encode(),
        )
        for entry in document
    ]


def write_users(path: Path, users: list[dict[str, Any]]) -> None:
    """Writes the users file (0600); each entry has name, password, user_id, project_id and roles."""
    entries = [
        {
            **{key: user[key] for key in ("name", "user_id", "project_id", "roles")},
            "password_hash": bcrypt.hashpw(user["password"].encode(), bcrypt.gensalt(ROUNDS)).decode(),
        }
        for user in users
    ]
    path.unlink(missing_ok=True)  # does not follow a link that somebody made
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w") as file:
        yaml.safe_dump(entries, file)

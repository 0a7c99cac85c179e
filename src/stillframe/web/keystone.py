"""Keystone tokens: X-Auth-Token says who asks, X-Service-Token that a service asks for that user.

A token is validated by Keystone itself (``GET /v3/auth/tokens``) as our own service user. A valid one is remembered for a
short while under a keyed digest; the token itself is not kept. So a token that is revoked works at most that much longer.
One that was refused is remembered, too, and only so many are asked about at once (``questions``): else each request with a
token that somebody made up would cost Keystone a look.
Headers in which a client claims an identity (X-User-Id, X-Roles ...) are not looked at.
"""

import hashlib
import hmac
import re
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keystoneauth1 import exceptions

from stillframe.context import Context
from stillframe.errors import Forbidden, ServiceUnavailable, StillframeError, Unauthorized
from stillframe.service_client.identity import from_options, sign_in
from stillframe.web.auth import Headers
from stillframe.web.questions import Questions

MOST_REMEMBERED = 10_000
REFUSED_SECONDS = 5.0  # a Keystone that has not heard of a new token yet is asked again soon
SERVICE_ROLE = "service"
_FORM = re.compile(r"[\x21-\x7e]{1,16384}")


@dataclass(frozen=True)
class _Known:
    """What a token stands for, and the instant of the monotonic clock until which that is believed."""

    user_id: str
    project_id: str
    roles: tuple[str, ...]
    until: float


@dataclass(frozen=True)
class _Refused:
    """Why a token was refused; not the error itself, whose traceback would hold the token."""

    kind: type[StillframeError]
    message: str
    until: float


class KeystoneAuth:
    """Tells who sends a request, as Keystone says."""

    def __init__(self, options: Any) -> None:
        """``options`` is the configuration's section [keystone]. Raises BadConfiguration."""
        identity = from_options("keystone", options)
        self._session = sign_in(identity)
        self._url = f"{identity.auth_url}/auth/tokens?nocatalog"
        self._seconds = options.cache_seconds
        self._key = secrets.token_bytes(32)
        self._known: dict[bytes, _Known] = {}
        self._refused: OrderedDict[bytes, _Refused] = OrderedDict()
        self._questions: Questions[_Known] = Questions()
        self._lock = threading.Lock()
        self.challenge = f'Keystone uri="{options.www_authenticate_uri or identity.auth_url}"'

    def identify(self, headers: Headers, request_id: str, peer: str = "") -> Context:
        """Returns the context of the user behind X-Auth-Token.

        Raises Unauthorized; Forbidden for a token without a project; TooManyRequests while too many tokens are asked about;
        ServiceUnavailable when Keystone does not say.
        """
        user = self._validated(headers.get("x-auth-token"), "X-Auth-Token", peer)
        service = headers.get("x-service-token")
        vouched = service is not None and SERVICE_ROLE in self._validated(service, "X-Service-Token", peer).roles
        return Context(user.user_id, user.project_id, user.roles, request_id, vouched)

    def _validated(self, token: str | None, header: str, peer: str) -> _Known:
        if token is None:
            raise Unauthorized(f"this service wants a Keystone token ({header})")
        if not _FORM.fullmatch(token):
            raise Unauthorized(f"{header} is not well formed")
        digest = hmac.digest(self._key, header.encode() + b"\0" + token.encode(), hashlib.sha256)
        with self._lock:
            known = self._known.get(digest)
            refused = self._refused.get(digest)
        if known is not None and known.until > time.monotonic():
            return known
        if refused is not None and refused.until > time.monotonic():
            raise refused.kind(refused.message)
        try:
            found = self._questions.ask(digest, peer, lambda: self._ask(token, header))
        except (Unauthorized, Forbidden) as error:
            self._remember_refused(digest, error)
            raise
        self._remember(digest, found)
        return found

    def _remember_refused(self, digest: bytes, error: StillframeError) -> None:
        with self._lock:
            self._refused.pop(digest, None)
            self._refused[digest] = _Refused(type(error), error.message, time.monotonic() + REFUSED_SECONDS)
            while len(self._refused) > MOST_REMEMBERED:
                self._refused.popitem(last=False)

    def _remember(self, digest: bytes, found: _Known) -> None:
        with self._lock:
            if len(self._known) >= MOST_REMEMBERED:
                now = time.monotonic()
                self._known = {key: known for key, known in self._known.items() if known.until > now}
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            self._known[digest] = found

    def _ask(self, token: str, header: str) -> _Known:
        try:
            answer = self._session.get(self._url, headers={"X-Subject-Token": token}, raise_exc=False, log=False)
        except exceptions.HttpError as error:
            raise ServiceUnavailable(f"Keystone gives Stillframe's own user no token: {error.http_status}") from error
        except exceptions.ClientException as error:
            raise ServiceUnavailable(f"Keystone does not answer: {error}") from error
        if answer.status_code == 404:
            raise Unauthorized(f"{header} is not a valid token, or has expired")
        if answer.status_code != 200:
            raise ServiceUnavailable(
                f"Keystone does not tell whether {header} is valid: it answered {answer.status_code}; the user of section "
                "[keystone] needs the role service"
            )
        try:
            return self._read(answer.json()["token"])
        except (ValueError, KeyError, TypeError) as error:
            raise ServiceUnavailable("Keystone answered with something that is not a token") from error

    def _read(self, document: dict[str, Any]) -> _Known:
        if "project" not in document:
            raise Forbidden("the token is for no project; ask Keystone for one that is scoped to a project")
        left = (datetime.fromisoformat(document["expires_at"]) - datetime.now(UTC)).total_seconds()
        if left <= 0:
            raise Unauthorized("the token has expired")
        return _Known(
            user_id=str(document["user"]["id"]),
            project_id=str(document["project"]["id"]),
            roles=tuple(str(role["name"]) for role in document["roles"]),
            until=time.monotonic() + min(self._seconds, left),
        )

"""Keystone tokens: X-Auth-Token says who asks, X-Service-Token that a service asks for that user.

Keystone itself validates a token (``GET /v3/auth/tokens``); we ask as our own service user. A valid token is remembered for a
short while under a keyed digest; the token itself is not kept. So a revoked token works at most that much longer. A refused
token is remembered too, and only a limited number is asked about at once (``questions``): otherwise each request with an
invented token would cost Keystone a lookup. Headers in which a client claims an identity (X-User-Id, X-Roles ...) are ignored.
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
from typing import Annotated, Any

import msgspec
from keystoneauth1 import exceptions

from stillframe.context import Context
from stillframe.errors import Forbidden, ServiceUnavailable, StillframeError, Unauthorized
from stillframe.service_client.identity import from_options, sign_in
from stillframe.web.auth import Headers
from stillframe.web.questions import Questions

MOST_REMEMBERED = 10_000
REFUSED_SECONDS = 5.0  # short, because a Keystone that does not know a new token yet must be asked again soon
SERVICE_ROLE = "service"
_FORM = re.compile(r"[\x21-\x7e]{1,16384}")


# Goes into rows, paths and logs: printable ASCII, no slash, no space. Keystone's own ids are letters, digits, hyphens.
_Id = Annotated[str, msgspec.Meta(pattern=r"^[!-.0-~]{1,255}\Z")]


class _Named(msgspec.Struct, frozen=True):
    id: _Id


class _Role(msgspec.Struct, frozen=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class _Token(msgspec.Struct, frozen=True):
    """What is read from a token's document. Nothing is converted: otherwise a caller without a project would get the project
    "None"."""

    user: _Named
    roles: tuple[_Role, ...]
    expires_at: str
    project: _Named | msgspec.UnsetType = msgspec.UNSET


class _Answer(msgspec.Struct, frozen=True):
    token: _Token


@dataclass(frozen=True)
class _Known:
    """What a token stands for, and until when on the monotonic clock that is believed."""

    user_id: str
    project_id: str
    roles: tuple[str, ...]
    until: float


@dataclass(frozen=True)
class _Refused:
    """Why a token was refused. It is not the error itself, whose traceback would hold the token."""

    kind: type[StillframeError]
    message: str
    until: float


class KeystoneAuth:
    """Identifies who sends a request, by asking Keystone."""

    def __init__(self, options: Any) -> None:
        """``options`` is the section [keystone] of the configuration. Raises BadConfiguration."""
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
            raise Unauthorized(f"this service requires a Keystone token ({header})")
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
            raise ServiceUnavailable(f"Keystone refuses a token to Stillframe's own user: {error.http_status}") from error
        except exceptions.ClientException as error:
            raise ServiceUnavailable(f"Keystone does not answer: {error}") from error
        if answer.status_code == 404:
            raise Unauthorized(f"{header} is not a valid token, or has expired")
        if answer.status_code != 200:
            raise ServiceUnavailable(
                f"Keystone does not say whether {header} is valid: it answered {answer.status_code}; the user of section "
                "[keystone] needs the role service"
            )
        try:
            return self._read(msgspec.convert(answer.json(), type=_Answer).token)
        except (ValueError, TypeError, OverflowError, RecursionError, msgspec.ValidationError) as error:
            raise ServiceUnavailable("Keystone answered with something that is not a token") from error

    def _read(self, token: _Token) -> _Known:
        if isinstance(token.project, msgspec.UnsetType):
            raise Forbidden("the token is not scoped to a project; get one from Keystone that is")
        left = (datetime.fromisoformat(token.expires_at) - datetime.now(UTC)).total_seconds()
        if left <= 0:
            raise Unauthorized("the token has expired")
        return _Known(
            user_id=token.user.id,
            project_id=token.project.id,
            roles=tuple(role.name for role in token.roles),
            until=time.monotonic() + min(self._seconds, left),
        )

"""A session with one service: endpoint, credentials, microversion. It returns answers, and raises refusals as our errors."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keystoneauth1 import adapter, exceptions, http_basic
from keystoneauth1 import session as ks_session

from stillframe.client import ADDITIONS
from stillframe.client.faults import error_of, stranger
from stillframe.errors import NotFound, PathNotFound, ServiceUnavailable
from stillframe.service_client.bounded import bounded
from stillframe.service_client.identity import Identity, sign_in
from stillframe.service_client.unix import UnixAdapter

_VERSION = "OpenStack-API-Version"
# In place of the adapter's own (keystoneauth1 5.18, _fair_semaphore.py), which waits by the clock: after one that is set back
# by an hour each call waited for an hour.
_AT_ONCE: AbstractContextManager[None] = nullcontext()


@dataclass(frozen=True)
class Endpoint:
    """Where a service is, and as whom we call it. ``service`` is "volume" or "compute".

    With an ``identity`` it is called with Keystone tokens, else with the name and the password. With a ``socket`` it is reached
    over that Unix socket; the URL then only gives the path. ``cafile`` holds the CA certificates that verify an https URL;
    None: the system's.
    """

    service: str
    url: str
    username: str
    password: str
    microversion: str
    identity: Identity | None = None
    socket: Path | None = None
    cafile: str | None = None


class Told(dict[str, Any]):
    """The document of an answer. If a key is missing, another service answered: the right one would have sent it."""

    def __init__(self, document: dict[str, Any], service: str) -> None:
        super().__init__(document)
        self._service = service

    def __missing__(self, key: str) -> Any:
        raise ServiceUnavailable(
            f"the {self._service} service does not answer as it should: its answer lacks {key!r}. Check"
            " the endpoint and the proxy before it"
        )


class Session:
    """Calls one endpoint. Connections are kept open between calls."""

    def __init__(self, endpoint: Endpoint, seconds: float = 30.0) -> None:
        self._endpoint = endpoint
        opened = _open(endpoint, seconds)
        if endpoint.socket is not None:
            opened.session.mount(endpoint.url, UnixAdapter(endpoint.socket))
        self._adapter = adapter.Adapter(opened, endpoint_override=endpoint.url, raise_exc=False)

    def call(self, method: str, path: str, body: Any = None) -> Told:
        """Sends one request; returns the document of the answer, empty if it has none.

        Raises an error of the answer's kind. Raises ServiceUnavailable for a redirect, which is not followed, and for an answer
        beyond the limits.
        """
        headers = {_VERSION: f"{self._endpoint.service} {self._endpoint.microversion}", ADDITIONS: "1"}
        how: dict[str, Any] = {"verify": self._endpoint.cafile or True, "rate_semaphore": _AT_ONCE}
        try:
            answer = self._adapter.request(path, method, json=body, headers=headers, **how)
        except (exceptions.ConnectFailure, exceptions.ConnectionError) as error:
            raise ServiceUnavailable(f"the {self._endpoint.service} service does not answer: {error}") from error
        except exceptions.ClientException as error:  # never from the service itself, because raise_exc is off
            service = self._endpoint.service
            raise ServiceUnavailable(f"Keystone refuses a token for the {service} service: {error}") from error
        if 300 <= answer.status_code < 400:
            raise stranger(answer.status_code, self._endpoint.service)
        if answer.status_code >= 400:
            refused = error_of(answer.status_code, answer, self._endpoint.service)
            if isinstance(refused, NotFound):
                _refuse_unless_told(refused, answer, self._endpoint.service)
            # No details of our own beside it: what an operation does next depends on those.
            refused.details = {self._endpoint.service: refused.details} if refused.details else {}
            raise refused
        return _document(answer, self._endpoint.service)


def _open(endpoint: Endpoint, seconds: float) -> ks_session.Session:
    if endpoint.identity is not None:
        return sign_in(endpoint.identity)
    auth = http_basic.HTTPBasicAuth(endpoint=endpoint.url, username=endpoint.username, password=endpoint.password)
    # A redirect would send the password to wherever it leads.
    return ks_session.Session(auth=auth, session=bounded(), timeout=seconds, redirect=False)


def _document(answer: Any, service: str) -> Told:
    try:
        found = answer.json() if answer.content else {}
    except (ValueError, RecursionError) as error:
        raise stranger(answer.status_code, service) from error
    if not isinstance(found, dict):
        raise stranger(answer.status_code, service)
    return Told(found, service)


def _refuse_unless_told(refusal: NotFound, answer: Any, service: str) -> None:
    """A caller that hears "not found" concludes that a server or a snapshot is gone. So only the right service may say that,
    and only about a thing.

    The right service names itself and the version it answers in, as Cinder and Nova do; another one behind the same address
    names itself. A path that the service does not have, because it is of another release, says nothing about what was asked
    for. Raises ServiceUnavailable.
    """
    versions = [each.strip().partition(" ")[0] for each in answer.headers.get(_VERSION, "").split(",")]
    if service not in versions:
        raise stranger(answer.status_code, service) from refusal
    if refusal.code == PathNotFound.code:
        raise ServiceUnavailable(
            f"the {service} service does not know this request: it is of another release of Stillframe. Install the same"
            " release for both services"
        ) from refusal

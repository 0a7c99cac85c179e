"""A session towards one service: endpoint, credentials, microversion; answers or raises in our words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keystoneauth1 import adapter, exceptions, http_basic
from keystoneauth1 import session as ks_session

from stillframe.client.faults import error_of, stranger
from stillframe.errors import NotFound, PathNotFound, ServiceUnavailable
from stillframe.service_client.identity import Identity, sign_in
from stillframe.service_client.unix import UnixAdapter

_VERSION = "OpenStack-API-Version"


@dataclass(frozen=True)
class Endpoint:
    """Where a service is and as whom it is called. ``service`` is "volume" or "compute".

    With an ``identity`` it is called with tokens of Keystone, else with the name and the password. With a ``socket`` it is
    reached over that Unix socket; the URL then only says what is asked for.
    """

    service: str
    url: str
    username: str
    password: str
    microversion: str
    identity: Identity | None = None
    socket: Path | None = None


class Session:
    """Calls one endpoint. Connections are kept open between calls."""

    def __init__(self, endpoint: Endpoint, seconds: float = 30.0) -> None:
        self._endpoint = endpoint
        opened = _open(endpoint, seconds)
        if endpoint.socket is not None:
            opened.session.mount(endpoint.url, UnixAdapter(endpoint.socket))
        self._adapter = adapter.Adapter(opened, endpoint_override=endpoint.url, raise_exc=False)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Sends one request; returns the answer's document, or None. Raises an error of the answer's kind."""
        headers = {_VERSION: f"{self._endpoint.service} {self._endpoint.microversion}"}
        try:
            answer = self._adapter.request(path, method, json=body, headers=headers)
        except (exceptions.ConnectFailure, exceptions.ConnectionError) as error:
            raise ServiceUnavailable(f"the {self._endpoint.service} service does not answer: {error}") from error
        except exceptions.ClientException as error:  # never the service itself: raise_exc is off
            service = self._endpoint.service
            raise ServiceUnavailable(f"Keystone gives no token for the {service} service: {error}") from error
        if answer.status_code >= 400:
            refused = error_of(answer.status_code, answer, self._endpoint.service)
            if isinstance(refused, NotFound):
                _refuse_unless_told(refused, answer, self._endpoint.service)
            # Beside no details of our own: what an operation does next depends on those.
            refused.details = {self._endpoint.service: refused.details} if refused.details else {}
            raise refused
        try:
            return answer.json() if answer.content else None
        except ValueError as error:
            raise stranger(answer.status_code, self._endpoint.service) from error


def _open(endpoint: Endpoint, seconds: float) -> ks_session.Session:
    if endpoint.identity is not None:
        return sign_in(endpoint.identity)
    auth = http_basic.HTTPBasicAuth(endpoint=endpoint.url, username=endpoint.username, password=endpoint.password)
    return ks_session.Session(auth=auth, timeout=seconds)


def _refuse_unless_told(told: NotFound, answer: Any, service: str) -> None:
    """Whoever hears "not found" concludes that a server or a snapshot is gone: only the right service may say so, and only of a
    thing. It names itself and the version it answers in, as Cinder and Nova do; another one behind the same address names
    itself. A path it does not have, as in a service of another release, says nothing of what was asked about. Raises
    ServiceUnavailable."""
    versions = [each.strip().partition(" ")[0] for each in answer.headers.get(_VERSION, "").split(",")]
    if service not in versions:
        raise stranger(answer.status_code, service) from told
    if told.code == PathNotFound.code:
        raise ServiceUnavailable(
            f"the {service} service does not know this request: it is of another release of Stillframe. Let both services be of"
            " one release"
        ) from told

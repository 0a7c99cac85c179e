"""A session towards one service: endpoint, credentials, microversion; answers or raises in our words."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keystoneauth1 import adapter, exceptions, http_basic
from keystoneauth1 import session as ks_session

from stillframe.client.identity import Identity, sign_in
from stillframe.client.unix import UnixAdapter
from stillframe.errors import (
    AccessRefused,
    AnotherJob,
    BadRequest,
    Busy,
    Conflict,
    Forbidden,
    HostCommandFailed,
    HypervisorRefused,
    IdInUse,
    ImageLocked,
    NotFound,
    QuiesceRefused,
    ServiceFailed,
    ServiceUnavailable,
    StepFailed,
    StillframeError,
    Unauthorized,
)

_HINT = re.compile(r" \[(\w+): [^\[\]]*\]\Z")  # our services put code and hint behind the message
_BY_STATUS: dict[int, type[StillframeError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
}
_BY_CODE: dict[str, type[StillframeError]] = {
    kind.code: kind
    for kind in (
        AccessRefused,
        AnotherJob,
        Busy,
        HostCommandFailed,
        HypervisorRefused,
        IdInUse,
        ImageLocked,
        QuiesceRefused,
        ServiceFailed,
        StepFailed,
    )
}  # other hints, other ways on
_NOT_FOUND = 404
_PASSES = (429, 502, 503, 504)  # the service, or what stands before it, says that it cannot answer now


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
        headers = {"OpenStack-API-Version": f"{self._endpoint.service} {self._endpoint.microversion}"}
        try:
            answer = self._adapter.request(path, method, json=body, headers=headers)
        except (exceptions.ConnectFailure, exceptions.ConnectionError) as error:
            raise ServiceUnavailable(f"the {self._endpoint.service} service does not answer: {error}") from error
        except exceptions.ClientException as error:  # never the service itself: raise_exc is off
            service = self._endpoint.service
            raise ServiceUnavailable(f"Keystone gives no token for the {service} service: {error}") from error
        if answer.status_code >= 400:
            raise error_of(answer.status_code, answer, self._endpoint.service)
        try:
            return answer.json() if answer.content else None
        except ValueError as error:
            raise _stranger(answer.status_code, self._endpoint.service) from error


def _open(endpoint: Endpoint, seconds: float) -> ks_session.Session:
    if endpoint.identity is not None:
        return sign_in(endpoint.identity)
    auth = http_basic.HTTPBasicAuth(endpoint=endpoint.url, username=endpoint.username, password=endpoint.password)
    return ks_session.Session(auth=auth, timeout=seconds)


def _stranger(status: int, service: str) -> ServiceUnavailable:
    """A proxy whose service is away answers 404 too: taken for the service's own word, that would mean that a server or a
    snapshot is gone."""
    return ServiceUnavailable(
        f"the {service} service does not answer: something else at its endpoint says {status}, and no document of the service."
        " Look at the endpoint and at the proxy before it"
    )


def error_of(status: int, answer: Any, service: str) -> StillframeError:
    """Returns the error that an answer tells of. What may pass is ServiceUnavailable; a defect of the other service is not."""
    try:
        (fault,) = answer.json().values()
        told = str(fault["message"])
        message, code = _HINT.sub("", told), (found[1] if (found := _HINT.search(told)) else "")
    except (ValueError, KeyError, TypeError, AttributeError):
        if status == _NOT_FOUND:
            return _stranger(status, service)
        message, code = f"the {service} service answered {status}", ""
    kind = _BY_CODE.get(code)
    if kind is not None:
        return kind(message)
    if status in _PASSES:
        return ServiceUnavailable(message)
    if status >= 500:
        return ServiceFailed(f"the {service} service met an error of its own: {message}")
    return _BY_STATUS.get(status, BadRequest)(message)

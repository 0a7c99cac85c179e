"""A session towards one service: endpoint, credentials, microversion; answers or raises in our words."""

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    PathNotFound,
    QuiesceRefused,
    ServiceFailed,
    ServiceUnavailable,
    StepFailed,
    StillframeError,
    Unauthorized,
    catalogue,
)
from stillframe.printable import escaped

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
_VERSION = "OpenStack-API-Version"
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
        f"the {service} service does not answer: something else at its endpoint says {status}, and not in the name of the"
        f" {service} service. Look at the endpoint and at the proxy before it"
    )


def _refuse_unless_told(told: NotFound, answer: Any, service: str) -> None:
    """Whoever hears "not found" concludes that a server or a snapshot is gone: only the right service may say so, and only of a
    thing. It names itself and the version it answers in, as Cinder and Nova do; another one behind the same address names
    itself. A path it does not have, as in a service of another release, says nothing of what was asked about. Raises
    ServiceUnavailable."""
    versions = [each.strip().partition(" ")[0] for each in answer.headers.get(_VERSION, "").split(",")]
    if service not in versions:
        raise _stranger(answer.status_code, service) from told
    if told.code == PathNotFound.code:
        raise ServiceUnavailable(
            f"the {service} service does not know this request: it is of another release of Stillframe. Let both services be of"
            " one release"
        ) from told


@dataclass(frozen=True)
class Fault:
    """What an answer tells. A real Cinder or Nova gives the message alone; the rest are our services' additions
    (see ``web/faults.py``)."""

    message: str
    error_code: str = ""
    hint: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


def fault_of(answer: Any) -> Fault | None:
    """Reads the fault of an answer; None when its body is no fault."""
    try:
        (fault,) = answer.json().values()
        message = str(fault["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    told = {name: fault[name] for name in ("summary", "error_code", "hint") if isinstance(fault.get(name), str)}
    details = fault.get("details")
    return Fault(
        told.get("summary", message),
        told.get("error_code", ""),
        escaped(told.get("hint", "")),
        details if isinstance(details, dict) else {},
    )


def error_of(status: int, answer: Any, service: str) -> StillframeError:
    """Returns the error that an answer tells of, with the code, the hint and the details that the service gave it. What may
    pass is ServiceUnavailable; a defect of the other service is not."""
    fault = fault_of(answer)
    if fault is None:
        if status == _NOT_FOUND:
            return _stranger(status, service)
        fault = Fault(f"the {service} service answered {status}")
    if status >= 500 and fault.error_code not in _BY_CODE and status not in _PASSES:
        return ServiceFailed(f"the {service} service met an error of its own: {fault.message}")
    error = _kind_of(status, fault.error_code)(fault.message)
    error.details = dict(fault.details)
    told = catalogue().get(fault.error_code)
    if told is not None and told.status == error.status:
        error.code = told.code
        error.hint = fault.hint or error.hint
    return error


def _kind_of(status: int, error_code: str) -> type[StillframeError]:
    kind = _BY_CODE.get(error_code)
    if kind is not None:
        return kind
    return ServiceUnavailable if status in _PASSES else _BY_STATUS.get(status, BadRequest)

"""Answers that are refusals, read as errors of ours: by their keys, never by their prose."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
_WORDS = 4000  # letters of a message or a hint; what is longer is no sentence, and would be stored with an operation
_DETAILS = 64 << 10  # bytes of JSON
_PASSES = (429, 502, 503, 504)  # the service, or what stands before it, says that it cannot answer now


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
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    texts = {name: fault[name][:_WORDS] for name in ("summary", "error_code", "hint") if isinstance(fault.get(name), str)}
    return Fault(
        texts.get("summary", message[:_WORDS]),
        texts.get("error_code", ""),
        escaped(texts.get("hint", "")),
        _details(fault.get("details")),
    )


def _details(given: Any) -> dict[str, Any]:
    try:
        return given if isinstance(given, dict) and len(json.dumps(given)) <= _DETAILS else {}
    except RecursionError:
        return {}


def error_of(status: int, answer: Any, service: str) -> StillframeError:
    """Returns the error that an answer tells of, with the code, the hint and the details that the service gave it. What may
    pass is ServiceUnavailable; a defect of the other service is not."""
    fault = fault_of(answer)
    if fault is None:
        if status == _NOT_FOUND:
            return stranger(status, service)
        fault = Fault(f"the {service} service answered {status}")
    if status >= 500 and fault.error_code not in _BY_CODE and status not in _PASSES:
        return ServiceFailed(f"the {service} service had an internal error: {fault.message}")
    error = _kind_of(status, fault.error_code)(fault.message)
    error.details = dict(fault.details)
    kind = catalogue().get(fault.error_code)
    if kind is not None and kind.status == error.status:
        error.code = kind.code
        error.hint = fault.hint or error.hint
    return error


def _kind_of(status: int, error_code: str) -> type[StillframeError]:
    kind = _BY_CODE.get(error_code)
    if kind is not None:
        return kind
    return ServiceUnavailable if status in _PASSES else _BY_STATUS.get(status, BadRequest)


def stranger(status: int, service: str) -> ServiceUnavailable:
    """A proxy whose service is away answers 404 too: taken for the service's own word, that would mean that a server or a
    snapshot is gone."""
    return ServiceUnavailable(
        f"the {service} service does not answer: something else at its endpoint says {status}, and not in the name of the"
        f" {service} service. Look at the endpoint and at the proxy before it"
    )

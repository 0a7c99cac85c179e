"""Errors as OpenStack clients read them: ``{"<fault>": {"code", "message"}}``, with our additions for programs beside those.

The two keys of the dialect are enough for a person: they say everything in prose. Everything else comes only from
``additions``, so that one place decides which client gets it.
"""

from typing import Any

from stillframe.errors import (
    BadRequest,
    Forbidden,
    InternalError,
    MediaTypeNotSupported,
    MethodNotAllowed,
    PathNotFound,
    ServiceUnavailable,
    StillframeError,
    TooLarge,
    Unauthorized,
)
from stillframe.printable import without_directories

NAMES = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    429: "overLimit",
    501: "notImplemented",
    502: "badGateway",
    503: "serviceUnavailable",
}
_KINDS: dict[int, type[StillframeError]] = {501: BadRequest} | {  # 501: a transfer coding that the server does not know
    kind.status: kind
    for kind in (
        BadRequest,
        Unauthorized,
        Forbidden,
        PathNotFound,
        MethodNotAllowed,
        TooLarge,
        MediaTypeNotSupported,
        ServiceUnavailable,
        InternalError,
    )
}
_HIDDEN = "the service had an unexpected error"


def of_error(error: StillframeError) -> dict[str, Any]:
    """Returns the fault body. A 500 is a defect and shows no internals; everything else says what, why and what to do."""
    if error.status == InternalError.status:
        return _body(error.status, _HIDDEN, additions(error, _HIDDEN, {}), error.hint)
    return _body(error.status, error.message, additions(error, error.message, error.details), error.hint)


def of_status(status: int, message: str) -> dict[str, Any]:
    """Returns the fault body of a request that was refused before any of our code saw it, for its path, method or header."""
    kind = _KINDS.get(status) or (BadRequest if status < InternalError.status else InternalError)
    error = kind(message)
    return _body(status, error.message, additions(error, error.message, {}), error.hint)


def additions(error: StillframeError, summary: str, details: dict[str, Any]) -> dict[str, Any]:
    """Returns the keys that a fault has beyond the dialect's; ``client/faults.py`` reads them.

    ``error_code`` never changes, ``summary`` is the message without the hint, ``hint`` says what to do next, ``details`` holds
    ids and numbers. Directories of the host are cut from its texts.
    """
    return {"error_code": error.code, "summary": summary, "hint": error.hint, "details": _public(details)}


def _public(value: Any) -> Any:
    if isinstance(value, str):
        return without_directories(value)
    if isinstance(value, dict):
        return {str(name): _public(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_public(each) for each in value]
    return value


def _body(status: int, summary: str, more: dict[str, Any], hint: str) -> dict[str, Any]:
    message = f"{summary}{'' if summary.endswith(('.', '!', '?')) else '.'} {hint}" if summary else hint
    return {NAMES.get(status, "computeFault"): {"code": status, "message": message, **more}}

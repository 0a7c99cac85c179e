"""Errors as OpenStack clients read them: ``{"<fault>": {"code", "message"}}``, plus our stable code and hint."""

from typing import Any

from stillframe.errors import StillframeError

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


def body(status: int, message: str, **more: Any) -> dict[str, Any]:
    return {NAMES.get(status, "computeFault"): {"code": status, "message": message, **more}}


def of_error(error: StillframeError) -> dict[str, Any]:
    """Returns the fault body. 500s are defects and name no internals; everything else says what, why and what to do."""
    message = error.message if error.status != 500 else "the service met an unexpected error"
    details = error.details if error.status != 500 else {}
    return body(error.status, f"{message} [{error.code}: {error.hint}]", **details)

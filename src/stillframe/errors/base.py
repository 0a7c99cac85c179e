"""What every kind of error has in common."""

from typing import Any, ClassVar

from stillframe.printable import escaped


class StillframeError(Exception):
    """An error a person is meant to read.

    ``details`` is a JSON-serialisable mapping for programs (ids, numbers); it never holds secrets. ``code`` and ``hint`` are
    the kind's; an error that another service reported keeps that service's (see ``client/faults.py``).
    """

    code: str = "internal"
    status: ClassVar[int] = 500
    may_retry: ClassVar[bool] = False
    hint: str = "Look for the request id in the service's log."

    def __init__(self, message: str, **details: Any) -> None:
        message = escaped(message, keep="\n\t")  # may quote a client, a guest, libvirt or a file
        super().__init__(message)
        self.message = message
        self.details = details

    def __str__(self) -> str:
        """What a command line prints: the message and what to do next."""
        return f"{self.message}\nhint: {self.hint}"

    def to_document(self) -> dict[str, Any]:
        """Returns ``{"code", "message", "details"}``."""
        return {"code": self.code, "message": self.message, "details": self.details}


class InternalError(StillframeError):
    """A defect of Stillframe. Its message is only logged: it may contain paths of the host, or data of another project."""

    code = "internal_error"
    hint = "The service's log holds the cause, under the id of the request or of the operation; report it as a defect."

"""Who asks, for which project, under which request id."""

import contextvars
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from oslo_context import context as oslo_context

_operation: contextvars.ContextVar[str | None] = contextvars.ContextVar("operation", default=None)


@dataclass(frozen=True)
class Context:
    """The identity behind one request. ``roles`` are the role names the user holds in ``project_id``.

    ``with_service_token`` says that a service sent its own token beside the user's. It may then do for that user what only
    services may do, and still sees only the user's project.
    """

    user_id: str
    project_id: str
    roles: tuple[str, ...]
    request_id: str
    with_service_token: bool = False

    @property
    def is_admin(self) -> bool:
        """Tells whether an administrator asks."""
        return "admin" in self.roles

    @property
    def is_service(self) -> bool:
        """Tells whether another service asks."""
        return "service" in self.roles

    @property
    def has_service_identity(self) -> bool:
        """Tells whether a service asks, for itself or for a user."""
        return self.is_service or self.with_service_token

    @property
    def sees_all_projects(self) -> bool:
        """Tells whether the caller sees what belongs to other projects."""
        return self.is_admin or self.is_service

    @property
    def sees_hosts(self) -> bool:
        """Tells whether the caller sees hosts, exports and mount points: administrators do, and services, even for a user."""
        return self.is_admin or self.has_service_identity

    def to_document(self) -> dict[str, Any]:
        """Returns the context as JSON, for the journal and the bus."""
        return {
            "user_id": self.user_id,
            "project_id": self.project_id,
            "roles": list(self.roles),
            "request_id": self.request_id,
            "with_service_token": self.with_service_token,
        }

    @staticmethod
    def from_document(document: dict[str, Any]) -> "Context":
        """Returns the context that ``to_document`` wrote."""
        return Context(
            document["user_id"],
            document["project_id"],
            tuple(document["roles"]),
            document["request_id"],
            document.get("with_service_token", False),
        )


class LogContext(oslo_context.RequestContext):
    """What every log line of this thread carries: request id, project, and the operation being run."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "request_id": self.request_id,
            "project_id": self.project_id,
            "user_id": self.user_id,
            "operation_id": _operation.get(),
        }


def new_request_id() -> str:
    """Returns an id in OpenStack's form, ``req-<uuid>``."""
    return f"req-{uuid.uuid4()}"


def bind_log(context: Context) -> None:
    """Makes the log lines of this thread carry the request's ids."""
    LogContext(request_id=context.request_id, project_id=context.project_id, user_id=context.user_id, overwrite=True)


@contextmanager
def operation_log(operation_id: str, request_id: str) -> Iterator[None]:
    """Makes the log lines inside carry the operation's id and the request that began it."""
    token = _operation.set(operation_id)
    LogContext(request_id=request_id, overwrite=True)
    try:
        yield
    finally:
        _operation.reset(token)

"""Requests about services: what an administrator sets of them, and what that stops."""

from typing import Any, cast

from sqlalchemy import Connection

from stillframe.context import Context
from stillframe.db import services
from stillframe.db.rows import ServiceStateRow
from stillframe.errors import Conflict
from stillframe.volumes.worker.context import WorkerContext

BACKUP = "cinder-backup"


def set_state(worker: WorkerContext, context: Context, state: dict[str, Any]) -> None:
    """Records what an administrator set of a service: binary, host, disabled, disabled_reason, frozen."""
    with worker.database.write() as connection:
        services.set_state(connection, cast("ServiceStateRow", state))


def refuse_frozen(worker: WorkerContext, connection: Connection, backend: str) -> None:
    """Raises Conflict while the backend is frozen: its volumes stay as they are."""
    state = services.states(connection).get((services.VOLUME, f"{worker.settings.host}@{backend}"))
    if state is not None and state["frozen"]:
        raise Conflict(
            f"backend {backend} is frozen: its volumes are neither made, extended, snapshotted nor deleted until an"
            " administrator thaws it"
        )


def refuse_backups(worker: WorkerContext, connection: Connection) -> None:
    """Raises Conflict while backups are disabled."""
    state = services.states(connection).get((BACKUP, worker.settings.host))
    if state is not None and state["disabled"]:
        raise Conflict(f"backups are disabled: {state['disabled_reason'] or 'an administrator gave no reason'}")

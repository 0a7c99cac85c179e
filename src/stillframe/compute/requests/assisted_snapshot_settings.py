"""The settings of a server's assisted snapshots: the request decides, then the server's settings, then the deployment's."""

from collections.abc import Mapping
from typing import Any, TypedDict, TypeVar, cast

from stillframe.compute.libvirt import servers
from stillframe.compute.operations.snapshot_intents import Quiesce
from stillframe.compute.worker.context import WorkerContext
from stillframe.context import Context
from stillframe.db import server_settings
from stillframe.db.values import ServerSettingsChanges

T = TypeVar("T")


class Effective(TypedDict):
    """The settings that a set is taken with. ``allow_unfreezable``: mount points and types of filesystems; ``hook_timeout``:
    seconds."""

    quiesce: Quiesce
    allow_unfreezable: list[str]
    hook_timeout: int


def show(worker: WorkerContext, context: Context, server_id: str) -> dict[str, Any]:
    """Returns what was set for the server, null where nothing was, and the server's canonical id. Raises NotFound."""
    return _answer(worker, servers.find(worker, context, server_id).id)


def change(worker: WorkerContext, context: Context, server_id: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Changes what is named; null takes a setting back. Returns the settings as they are now. Raises NotFound."""
    server = servers.find(worker, context, server_id)
    with worker.database.write() as connection:
        server_settings.put(connection, server.id, server.project_id, **changes)
    return _answer(worker, server.id)


def effective(worker: WorkerContext, server_id: str, wanted: Mapping[str, Any]) -> Effective:
    """Returns the settings as a request of this server has them, which names some of them or none."""
    options, server = worker.settings.compute, _of(worker, server_id)
    return {
        "quiesce": cast("Quiesce", _first(wanted.get("quiesce"), server["quiesce"], options.quiesce)),  # the schemas' words
        "allow_unfreezable": _first(wanted.get("allow_unfreezable"), server["allow_unfreezable"], []),
        "hook_timeout": _first(wanted.get("hook_timeout"), server["hook_timeout"], options.hook_timeout_seconds),
    }


def _answer(worker: WorkerContext, server_id: str) -> dict[str, Any]:
    return {"server_id": server_id, **_of(worker, server_id)}


def _of(worker: WorkerContext, server_id: str) -> ServerSettingsChanges:
    """The settings of a server that may be asked about; None where nothing was set."""
    with worker.database.read() as connection:
        row = server_settings.get(connection, server_id)
    if row is None:
        return {"quiesce": None, "allow_unfreezable": None, "hook_timeout": None}
    return {
        "quiesce": row["quiesce"],
        "allow_unfreezable": row["allow_unfreezable"],
        "hook_timeout": row["hook_timeout"],
    }


def _first(requested: T | None, of_server: T | None, usual: T) -> T:
    return next((value for value in (requested, of_server) if value is not None), usual)

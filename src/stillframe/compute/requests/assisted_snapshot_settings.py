"""The settings of a server's assisted snapshots: the request decides, then the server's settings, then the deployment's."""

from stillframe.compute.libvirt import servers
from stillframe.compute.worker.context import WorkerContext
from stillframe.context import Context
from stillframe.db import server_settings
from stillframe.db.rows import Row

NAMES = ("quiesce", "allow_unfreezable", "hook_timeout")


def show(world: WorkerContext, context: Context, server_id: str) -> Row:
    """Returns what was set for the server, null where nothing was, and the server's canonical id. Raises NotFound."""
    return of(world, servers.find(world, context, server_id).id)


def change(world: WorkerContext, context: Context, server_id: str, changes: Row) -> Row:
    """Changes what is named; null takes a setting back. Returns the settings as they are now. Raises NotFound."""
    server = servers.find(world, context, server_id)
    with world.database.write() as connection:
        server_settings.put(connection, server.id, server.project_id, **changes)
    return of(world, server.id)


def of(world: WorkerContext, server_id: str) -> Row:
    """The settings of a server that may be asked about."""
    with world.database.read() as connection:
        row = server_settings.get(connection, server_id) or {}
    return {"server_id": server_id, **{name: row.get(name) for name in NAMES}}


def effective(world: WorkerContext, server_id: str, wanted: Row) -> Row:
    """Returns ``quiesce``, ``allow_unfreezable`` and ``hook_timeout`` (seconds) as a request of this server has them."""
    options = world.settings.compute
    deployment = {"quiesce": options.quiesce, "allow_unfreezable": [], "hook_timeout": options.hook_timeout_seconds}
    server = of(world, server_id)
    return {
        name: next(value for value in (wanted.get(name), server[name], deployment[name]) if value is not None) for name in NAMES
    }

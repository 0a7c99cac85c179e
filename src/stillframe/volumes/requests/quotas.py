"""Requests about quotas, as the worker takes them."""

from stillframe.context import Context
from stillframe.db import quotas
from stillframe.volumes.worker.context import WorkerContext


def set_quotas(worker: WorkerContext, context: Context, project_id: str, wanted: dict[str, int]) -> None:
    """Sets limits of a project, by resource; -1 means none."""
    with worker.database.write() as connection:
        quotas.set_limits(connection, project_id, wanted)


def clear_quotas(worker: WorkerContext, context: Context, project_id: str) -> None:
    """Deletes the limits of a project, which has the default ones then."""
    with worker.database.write() as connection:
        quotas.clear(connection, project_id)


def set_class(worker: WorkerContext, context: Context, class_name: str, wanted: dict[str, int]) -> None:
    """Sets limits of a quota class, by resource; -1 means none. Those of "default" hold where a project has none of its own."""
    with worker.database.write() as connection:
        quotas.set_class_limits(connection, class_name, wanted)

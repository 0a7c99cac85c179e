"""Requests about quotas, as the worker takes them."""

from stillframe.context import Context
from stillframe.db import quotas
from stillframe.volumes.worker.context import WorkerContext


def set_quotas(world: WorkerContext, context: Context, project_id: str, wanted: dict[str, int]) -> None:
    with world.database.write() as connection:
        quotas.set_limits(connection, project_id, wanted)


def clear_quotas(world: WorkerContext, context: Context, project_id: str) -> None:
    with world.database.write() as connection:
        quotas.clear(connection, project_id)

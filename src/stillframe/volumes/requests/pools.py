"""Requests about the shares and their capacity, as the worker takes them."""

from typing import Any

from stillframe.context import Context
from stillframe.db import volumes
from stillframe.errors import BadConfiguration, ShareUnavailable
from stillframe.volumes.storage.backends import VENDOR
from stillframe.volumes.worker.context import WorkerContext


def pools(worker: WorkerContext, context: Context) -> list[dict[str, Any]]:
    """Returns every share of every backend with its capacity in GiB; one that does not answer is "down"."""
    return [_pool(worker, pool) for pool in worker.backends.pools]


def _pool(worker: WorkerContext, pool: Any) -> dict[str, Any]:
    with worker.database.read() as connection:
        promised = volumes.provisioned(connection, pool.export.export)
        count = len(volumes.on_share(connection, pool.export.export))
    about = {
        "volume_backend_name": pool.options.volume_backend_name or pool.backend,
        "storage_protocol": pool.options.volume_driver,
        "driver_version": "1",
        "vendor_name": VENDOR,
        "total_volumes": count,
    }
    try:
        about |= {"backend_state": "up", **pool.capacity(promised)}
    except (ShareUnavailable, BadConfiguration) as error:
        about |= {"backend_state": "down", "reason": error.message}
    return {"name": f"{worker.settings.host}@{pool.name}", "capabilities": about}

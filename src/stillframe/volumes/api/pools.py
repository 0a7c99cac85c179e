"""/scheduler-stats/get_pools and /capabilities: the shares, their capacity, and what they can."""

from typing import Any

from stillframe.errors import NotFound
from stillframe.volumes.rpcapi import worker
from stillframe.web.route import Call, Route


def get_pools(call: Call) -> dict[str, Any]:
    """``GET /scheduler-stats/get_pools``: the shares by name, with ``detail`` also their capacity in GiB."""
    found = worker(call).list_pools(call.context)
    detail = call.query.get("detail", "false").lower() in ("true", "1")
    return {"pools": found if detail else [{"name": pool["name"]} for pool in found]}


def show_capabilities(call: Call) -> dict[str, Any]:
    """``GET /capabilities/{host@backend}``: what a backend is. A pool's name, with ``#share``, will do. Raises NotFound."""
    host = call.path["host"].partition("#")[0]
    for pool in worker(call).list_pools(call.context):
        if pool["name"].partition("#")[0] == host:
            return _capabilities(host, pool["capabilities"])
    raise NotFound(f"Can't find service: {host}")


def _capabilities(host: str, found: dict[str, Any]) -> dict[str, Any]:
    shown = {name: found[name] for name in ("vendor_name", "volume_backend_name", "driver_version", "storage_protocol")}
    nothing: dict[str, Any] = dict.fromkeys(("pool_name", "display_name", "description", "visibility"))
    return {
        "namespace": f"OS::Storage::Capabilities::{host}",
        **shown,
        **nothing,
        "replication_targets": [],
        "properties": {},
    }


ROUTES = (
    Route("GET", "/scheduler-stats/get_pools", get_pools, "scheduler_extension:scheduler_stats:get_pools"),
    Route("GET", "/capabilities/{host}", show_capabilities, "volume_extension:capabilities"),
)

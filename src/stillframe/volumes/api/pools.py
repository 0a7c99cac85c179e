"""/scheduler-stats/get_pools: the shares and their capacity."""

from typing import Any

from stillframe.volumes.rpcapi import worker
from stillframe.web.route import Call, Route


def get_pools(call: Call) -> dict[str, Any]:
    found = worker(call).list_pools(call.context)
    detail = call.query.get("detail", "false").lower() in ("true", "1")
    return {"pools": found if detail else [{"name": pool["name"]} for pool in found]}


ROUTES = (Route("GET", "/scheduler-stats/get_pools", get_pools, "scheduler_extension:scheduler_stats:get_pools"),)

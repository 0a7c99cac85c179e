"""Lists that dashboards ask for before they show anything: which filters there are, and what this service has none of."""

from collections.abc import Callable
from typing import Any

from stillframe.volumes.api import attachments, backups, group_snapshots, groups, messages, snapshots, transfers, volumes
from stillframe.web.route import Call, Route

_FILTERS = {
    "volume": volumes.FILTERS,
    "snapshot": snapshots.FILTERS,
    "backup": backups.FILTERS,
    "attachment": attachments.FILTERS,
    "message": messages.FILTERS,
    "transfer": transfers.FILTERS,
    "group": groups.FILTERS,
    "group_snapshot": group_snapshots.FILTERS,
}


def resource_filters(call: Call) -> dict[str, Any]:
    """``GET /resource_filters``: by what each list may be filtered; ``resource`` names one list."""
    wanted = call.query.get("resource")
    found = {name: filters for name, filters in _FILTERS.items() if wanted in (None, name)}
    return {"resource_filters": [{"resource": name, "filters": list(filters)} for name, filters in found.items()]}


def _nothing(key: str) -> Callable[[Call], dict[str, Any]]:
    def list_none(_call: Call) -> dict[str, Any]:
        return {key: []}

    return list_none


ROUTES = (
    Route("GET", "/resource_filters", resource_filters, "volume:get", since=(3, 33)),
    Route("GET", "/default-types", _nothing("default_types"), "volume_extension:default_get_all", since=(3, 62)),
)

"""/limits and /os-quota-sets: how much a project may have, and has."""

from typing import Any

from stillframe.db import backups, quotas, snapshots, volumes
from stillframe.errors import BadRequest, Forbidden
from stillframe.volumes.rpcapi import worker
from stillframe.web.route import Call, Route

_LIMIT = {"type": ["integer", "null"], "minimum": -1, "maximum": (1 << 31) - 1}
_RESOURCES = (
    "volumes",
    "snapshots",
    "gigabytes",
    "backups",
    "backup_gigabytes",
    "snapshots_per_volume",
    "per_volume_gigabytes",
)
_UPDATE = {
    "type": "object",
    "properties": {
        "quota_set": {
            "type": "object",
            "properties": {**dict.fromkeys(_RESOURCES, _LIMIT), "force": {}, "tenant_id": {}},
            "additionalProperties": False,
            "minProperties": 1,
        }
    },
    "required": ["quota_set"],
    "additionalProperties": False,
}


def _defaults(call: Call) -> dict[str, int]:
    options = call.door.settings.volumes
    return {
        "volumes": options.quota_volumes,
        "snapshots": options.quota_snapshots,
        "gigabytes": options.quota_gigabytes,
        "per_volume_gigabytes": options.per_volume_gigabytes,
        "snapshots_per_volume": options.quota_snapshots_per_volume,
        "backups": options.quota_backups,
        "backup_gigabytes": options.quota_backup_gigabytes,
        "groups": 0,
    }


def _limits_and_usage(call: Call, project_id: str) -> tuple[dict[str, int], dict[str, int]]:
    with call.door.database.read() as connection:
        allowed = {**_defaults(call), **quotas.limits(connection, project_id)}
        count, gigabytes = volumes.usage(connection, project_id)
        backup_count, backup_gigabytes = backups.usage(connection, project_id)
        used = {"volumes": count, "gigabytes": gigabytes, "snapshots": snapshots.usage(connection, project_id)}
        used |= {"backups": backup_count, "backup_gigabytes": backup_gigabytes}
    return allowed, used


def limits(call: Call) -> dict[str, Any]:
    allowed, used = _limits_and_usage(call, call.context.project_id)
    absolute = {
        "maxTotalVolumes": allowed["volumes"],
        "maxTotalSnapshots": allowed["snapshots"],
        "maxTotalVolumeGigabytes": allowed["gigabytes"],
        "maxTotalBackups": allowed["backups"],
        "maxTotalBackupGigabytes": allowed["backup_gigabytes"],
        "totalVolumesUsed": used["volumes"],
        "totalSnapshotsUsed": used["snapshots"],
        "totalGigabytesUsed": used["gigabytes"],
        "totalBackupsUsed": used["backups"],
        "totalBackupGigabytesUsed": used["backup_gigabytes"],
    }
    return {"limits": {"rate": [], "absolute": absolute}}


def show_quotas(call: Call) -> dict[str, Any]:
    project_id = call.path["project_id"]
    if project_id != call.context.project_id and not call.context.sees_all_projects:
        raise Forbidden("quotas of another project are shown to administrators only")
    allowed, used = _limits_and_usage(call, project_id)
    shown: dict[str, Any] = {"id": project_id, **allowed}
    if call.query.get("usage", "").lower() == "true":
        for resource, limit in allowed.items():
            shown[resource] = {"limit": limit, "in_use": used.get(resource, 0), "reserved": 0}
    return {"quota_set": shown}


def show_defaults(call: Call) -> dict[str, Any]:
    return {"quota_set": {"id": call.path["project_id"], **_defaults(call)}}


def set_quotas(call: Call) -> dict[str, Any]:
    given = call.body["quota_set"]
    wanted = {name: given[name] for name in _RESOURCES if given.get(name) is not None}
    if not wanted:
        raise BadRequest(f"name at least one of {', '.join(_RESOURCES)}")
    worker(call).set_quotas(call.context, project_id=call.path["project_id"], wanted=wanted)
    allowed, _ = _limits_and_usage(call, call.path["project_id"])
    return {"quota_set": allowed}


def clear_quotas(call: Call) -> None:
    worker(call).clear_quotas(call.context, project_id=call.path["project_id"])


_QUOTAS = "/os-quota-sets/{project_id}"
ROUTES = (
    Route("GET", "/limits", limits, "volume_extension:limits"),
    Route("GET", _QUOTAS, show_quotas, "volume_extension:quotas:show"),
    Route("GET", f"{_QUOTAS}/defaults", show_defaults, "volume_extension:quotas:show"),
    Route("PUT", _QUOTAS, set_quotas, "volume_extension:quotas:update", 200, _UPDATE),
    Route("DELETE", _QUOTAS, clear_quotas, "volume_extension:quotas:update", 200),
)

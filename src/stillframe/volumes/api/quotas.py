"""/limits, /os-quota-sets and /os-quota-class-sets: how much a project may have, and has."""

from typing import Any

from stillframe.db import backups, quotas, snapshots, volume_groups, volumes
from stillframe.errors import BadRequest, Forbidden
from stillframe.volumes.rpcapi import worker
from stillframe.web.route import Call, Route

DEFAULT = "default"  # the class that every project has
_LIMIT = {"type": ["integer", "null"], "minimum": -1, "maximum": (1 << 31) - 1}
_RESOURCES = (
    "volumes",
    "snapshots",
    "gigabytes",
    "backups",
    "backup_gigabytes",
    "snapshots_per_volume",
    "per_volume_gigabytes",
    "groups",
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
    """The limits of a project for which none were set: those of the class "default", else of the configuration."""
    with call.api.database.read() as connection:
        return {**_configured(call), **quotas.class_limits(connection, DEFAULT)}


def _configured(call: Call) -> dict[str, int]:
    options = call.api.settings.volumes
    return {
        "volumes": options.quota_volumes,
        "snapshots": options.quota_snapshots,
        "gigabytes": options.quota_gigabytes,
        "per_volume_gigabytes": options.per_volume_gigabytes,
        "snapshots_per_volume": options.quota_snapshots_per_volume,
        "backups": options.quota_backups,
        "backup_gigabytes": options.quota_backup_gigabytes,
        "groups": options.quota_groups,
    }


def _limits_and_usage(call: Call, project_id: str) -> tuple[dict[str, int], dict[str, int]]:
    with call.api.database.read() as connection:
        allowed = {**_configured(call), **quotas.class_limits(connection, DEFAULT), **quotas.limits(connection, project_id)}
        count, gigabytes = volumes.usage(connection, project_id)
        snapshot_count, snapshot_gigabytes = snapshots.usage(connection, project_id)
        backup_count, backup_gigabytes = backups.usage(connection, project_id)
        used = {"volumes": count, "gigabytes": gigabytes + snapshot_gigabytes, "snapshots": snapshot_count}
        used |= {"backups": backup_count, "backup_gigabytes": backup_gigabytes}
        used["groups"] = volume_groups.usage(connection, project_id)
    return allowed, used


def limits(call: Call) -> dict[str, Any]:
    """``GET /limits``: limits and usage of the project, sizes in GiB; -1 means no limit."""
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
    """``GET /os-quota-sets/{project_id}``: the limits, with ``?usage=true`` also what is used. Raises Forbidden."""
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
    """``GET /os-quota-sets/{project_id}/defaults``: the limits of a project for which none were set."""
    return {"quota_set": {"id": call.path["project_id"], **_defaults(call)}}


def set_quotas(call: Call) -> dict[str, Any]:
    """``PUT /os-quota-sets/{project_id}``: sets the limits that are named. Raises BadRequest when none is."""
    given = call.body["quota_set"]
    wanted = {name: given[name] for name in _RESOURCES if given.get(name) is not None}
    if not wanted:
        raise BadRequest(f"name at least one of {', '.join(_RESOURCES)}")
    worker(call).set_quotas(call.context, project_id=call.path["project_id"], wanted=wanted)
    allowed, _ = _limits_and_usage(call, call.path["project_id"])
    return {"quota_set": allowed}


def clear_quotas(call: Call) -> None:
    """``DELETE /os-quota-sets/{project_id}``: the project has the default limits again."""
    worker(call).clear_quotas(call.context, project_id=call.path["project_id"])


def _class_limits(call: Call) -> dict[str, int]:
    with call.api.database.read() as connection:
        return {**_configured(call), **quotas.class_limits(connection, call.path["name"])}


def show_class(call: Call) -> dict[str, Any]:
    """``GET /os-quota-class-sets/{name}``: the limits of a class; "default" is the one that projects have."""
    return {"quota_class_set": {"id": call.path["name"], **_class_limits(call)}}


def set_class(call: Call) -> dict[str, Any]:
    """``PUT /os-quota-class-sets/{name}``: sets the limits that are named; of "default" they hold for every project for which
    none were set. Raises BadRequest for a resource that has no limit."""
    given = call.body["quota_class_set"]
    unknown = sorted(name for name in given if name not in _RESOURCES)
    if unknown:
        raise BadRequest(f"Bad key(s) in quota class set: {', '.join(unknown)[:200]}; known are {', '.join(_RESOURCES)}")
    worker(call).set_quota_class(call.context, class_name=call.path["name"], wanted=given)
    return {"quota_class_set": _class_limits(call)}


_UPDATE_CLASS = {
    "type": "object",
    "properties": {
        "quota_class_set": {
            "type": "object",
            "maxProperties": 64,
            "additionalProperties": {"type": "integer", "minimum": -1, "maximum": (1 << 31) - 1},
        }
    },
    "required": ["quota_class_set"],
    "additionalProperties": False,
}
_QUOTAS = "/os-quota-sets/{project_id}"
_CLASSES = "/os-quota-class-sets/{name}"
ROUTES = (
    Route("GET", "/limits", limits, "volume_extension:limits"),
    Route("GET", _QUOTAS, show_quotas, "volume_extension:quotas:show"),
    Route("GET", f"{_QUOTAS}/defaults", show_defaults, "volume_extension:quotas:show"),
    Route("PUT", _QUOTAS, set_quotas, "volume_extension:quotas:update", 200, _UPDATE),
    Route("GET", _CLASSES, show_class, "volume_extension:quota_classes:get"),
    Route("PUT", _CLASSES, set_class, "volume_extension:quota_classes:update", 200, _UPDATE_CLASS),
    Route("DELETE", _QUOTAS, clear_quotas, "volume_extension:quotas:update", 200),
)

"""/backups: the requests clients send, and the view they read."""

from typing import Any, TypedDict

from stillframe.chain.names import lookup_id
from stillframe.db import backups
from stillframe.db.rows import BackupRow
from stillframe.errors import BadRequest, NotFound
from stillframe.volumes.api.volumes import read as read_volume
from stillframe.volumes.api.volumes import stamp
from stillframe.volumes.rpcapi import worker
from stillframe.web import body, paging
from stillframe.web.route import Call, Route

FILTERS = {"name": "name", "status": "status", "volume_id": "volume_id", "project_id": "project_id"}
_SORTABLE = ("created_at", "updated_at", "name", "size", "status", "id", "volume_id")
_ID = {"type": ["string", "null"], "maxLength": 36}
_CREATE = body.wrapped(
    "backup",
    {
        "volume_id": {"type": "string", "maxLength": 36},
        "name": body.NAME,
        "description": body.DESCRIPTION,
        "container": {"type": ["string", "null"], "maxLength": 63, "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z"},
        "incremental": {"type": ["boolean", "string", "null"], "maxLength": 8},
        "force": {"type": ["boolean", "string", "null"], "maxLength": 8},
        "snapshot_id": _ID,
        "metadata": body.METADATA,
        "availability_zone": {"type": ["string", "null"], "maxLength": 255},
    },
    ("volume_id",),
)
_UPDATE = body.wrapped(
    "backup", {"name": body.NAME, "description": body.DESCRIPTION, "metadata": body.METADATA}, minProperties=1
)
_RESTORE = body.wrapped("restore", {"volume_id": _ID, "name": body.NAME})
_IMPORT = body.wrapped(
    "backup-record",
    {
        "backup_service": {"type": "string", "minLength": 1, "maxLength": 255},
        "backup_url": {"type": "string", "minLength": 1, "maxLength": 48 << 10},
    },
    ("backup_service", "backup_url"),
)
_RESET = body.wrapped("os-reset_status", {"status": {"enum": ["available", "error"]}}, ("status",))
_FORCE = {
    "type": "object",
    "properties": {"os-force_delete": {"type": ["object", "null"], "maxProperties": 0}},
    "required": ["os-force_delete"],
    "additionalProperties": False,
}


def _links(call: Call, backup_id: str) -> list[dict[str, str]]:
    return [
        {"rel": "self", "href": f"{call.base_url}/backups/{backup_id}"},
        {"rel": "bookmark", "href": f"{call.base_url.rpartition('/v3')[0]}/backups/{backup_id}"},
    ]


def view(call: Call, row: BackupRow, has_dependents: bool) -> dict[str, Any]:
    """Returns a backup as the API shows it; ``has_dependents``: an incremental one builds on it."""
    shown = {
        "id": row["id"],
        "status": row["status"],
        "size": row["size"],
        "object_count": row["object_count"],
        "availability_zone": row["availability_zone"],
        "container": row["container"],
        "created_at": stamp(row["created_at"]),
        "updated_at": stamp(row["updated_at"]),
        "name": row["name"],
        "description": row["description"],
        "fail_reason": row["fault"],
        "volume_id": row["volume_id"],
        "links": _links(call, row["id"]),
        "is_incremental": row["parent_id"] is not None,
        "has_dependent_backups": has_dependents,
        "snapshot_id": row["snapshot_id"],
        "data_timestamp": stamp(row["data_timestamp"]),
    }
    for since, name, value in (
        ((3, 18), "os-backup-project-attr:project_id", row["project_id"]),
        ((3, 43), "metadata", row["metadata"]),
        ((3, 56), "user_id", row["user_id"]),
        ((3, 64), "encryption_key_id", None),
    ):
        if call.version >= since:
            shown[name] = value
    return shown


def read(call: Call, backup_id: str) -> BackupRow:
    """Returns the backup's row. Raises NotFound."""
    with call.api.database.read() as connection:
        row = backups.get(connection, lookup_id(backup_id), call.project_of_one)
    if row is None:
        raise NotFound(f"Backup {backup_id} could not be found.")
    return row


def _list(call: Call, detail: bool) -> dict[str, Any]:
    page = paging.wanted(call, FILTERS, _SORTABLE)
    with call.api.database.read() as connection:
        rows = backups.list_page(connection, call.project, page)
        children = backups.children(connection, [row["id"] for row in rows])
    shown = [view(call, row, bool(children[row["id"]])) for row in rows]
    if not detail:
        shown = [{key: entry[key] for key in ("id", "name", "links")} for entry in shown]
    return {"backups": shown, **paging.links(call, page, rows, "backups_links"), **paging.counted(call, page, backups.count)}


def list_brief(call: Call) -> dict[str, Any]:
    """``GET /backups``: id, name and links of each backup of the project."""
    return _list(call, detail=False)


def list_detail(call: Call) -> dict[str, Any]:
    """``GET /backups/detail``: the backups of the project, each as ``view`` has it."""
    return _list(call, detail=True)


def show(call: Call) -> dict[str, Any]:
    """``GET /backups/{id}``: one backup; with ``?explain=1`` also what its deletion would cost. Raises NotFound."""
    row = read(call, call.path["id"])
    with call.api.database.read() as connection:
        children = backups.children(connection, [row["id"]])[row["id"]]
    shown = view(call, row, bool(children))
    if call.explains:
        shown["deletion"] = explain_delete(call)
    return {"backup": shown}


def _brief(call: Call, backup_id: str) -> dict[str, Any]:
    row = read(call, backup_id)
    return {"backup": {"id": row["id"], "name": row["name"], "links": _links(call, row["id"])}}


def create(call: Call) -> dict[str, Any]:
    """``POST /backups``: begins a backup of a volume or of a snapshot; the answer has its id. Raises as the worker does."""
    return _brief(call, worker(call).create_backup(call.context, wanted=_wanted(call)))


def explain_create(call: Call) -> dict[str, Any]:
    """What ``create`` would read and store."""
    return worker(call).explain_backup(call.context, wanted=_wanted(call))


def _wanted(call: Call) -> dict[str, Any]:
    wanted = {key: value for key, value in call.body["backup"].items() if value is not None}
    wanted.pop("force", None)
    wanted["incremental"] = str(wanted.get("incremental", False)).lower() in ("true", "1", "yes", "on")
    wanted["volume_id"] = read_volume(call, wanted["volume_id"])["id"]
    return wanted


def update(call: Call) -> dict[str, Any]:
    """``PUT /backups/{id}``: changes name, description or metadata. Raises NotFound."""
    changes = {key: value for key, value in call.body["backup"].items() if key != "metadata" or value is not None}
    backup_id = read(call, call.path["id"])["id"]
    worker(call).update_backup(call.context, backup_id=backup_id, changes=changes)
    return _brief(call, backup_id)


def delete(call: Call) -> None:
    """``DELETE /backups/{id}``: begins the deletion. Raises NotFound, Conflict while an incremental backup builds on it."""
    worker(call).delete_backup(call.context, backup_id=read(call, call.path["id"])["id"])


def explain_delete(call: Call) -> dict[str, Any]:
    """What ``delete`` would free, and what is copied after it."""
    return worker(call).explain_backup_deletion(call.context, backup_id=read(call, call.path["id"])["id"])


def restore(call: Call) -> dict[str, Any]:
    """``POST /backups/{id}/restore``: begins to restore into a new volume, or over a volume that nothing is attached to."""
    return {"restore": worker(call).restore_backup(call.context, **_target(call))}


def explain_restore(call: Call) -> dict[str, Any]:
    """What ``restore`` would fetch and write, and what is free for it."""
    return worker(call).explain_restore(call.context, **_target(call))


class _Target(TypedDict):
    backup_id: str
    volume_id: str | None
    name: str | None


def _target(call: Call) -> _Target:
    wanted = call.body["restore"]
    backup_id = read(call, call.path["id"])["id"]
    return {"backup_id": backup_id, "volume_id": wanted.get("volume_id"), "name": wanted.get("name")}


def export_record(call: Call) -> dict[str, Any]:
    """``GET /backups/{id}/export_record``: the record that ``import_record`` reads. Raises BadRequest
    unless it is available."""
    row = read(call, call.path["id"])
    if row["status"] != "available":
        raise BadRequest(f"Invalid backup: the status must be available, but it is {row['status']}")
    return {"backup-record": worker(call).export_backup(call.context, backup_id=row["id"])}


def import_record(call: Call) -> dict[str, Any]:
    """``POST /backups/import_record``: makes the row of a backup that lies in the store. Raises BadRequest, BadBackup."""
    given = call.body["backup-record"]
    return _brief(
        call, worker(call).import_backup(call.context, backup_service=given["backup_service"], backup_url=given["backup_url"])
    )


def reset_status(call: Call) -> None:
    """``os-reset_status``: an administrator corrects the status of a row; no file is touched."""
    status = call.body["os-reset_status"]["status"]
    worker(call).reset_backup_status(call.context, backup_id=read(call, call.path["id"])["id"], status=status)


def force_delete(call: Call) -> None:
    """``os-force_delete``: deletes a backup in any status."""
    worker(call).delete_backup(call.context, backup_id=read(call, call.path["id"])["id"], force=True)


_ACTION = "/backups/{id}/action"
ROUTES = (
    Route("GET", "/backups", list_brief, "backup:get"),
    Route("GET", "/backups/detail", list_detail, "backup:get"),
    Route("GET", "/backups/{id}", show, "backup:get"),
    Route("POST", "/backups", create, "backup:create", 202, _CREATE, explain=explain_create),
    Route("PUT", "/backups/{id}", update, "backup:update", 200, _UPDATE, since=(3, 9)),
    Route("DELETE", "/backups/{id}", delete, "backup:delete", 202, explain=explain_delete),
    Route("POST", "/backups/{id}/restore", restore, "backup:restore", 202, _RESTORE, explain=explain_restore),
    Route("GET", "/backups/{id}/export_record", export_record, "backup:export_import"),
    Route("POST", "/backups/import_record", import_record, "backup:export_import", 201, _IMPORT),
    Route("POST", _ACTION, reset_status, "backup:admin_actions", 202, _RESET, "os-reset_status"),
    Route("POST", _ACTION, force_delete, "backup:admin_actions", 202, _FORCE, "os-force_delete"),
)

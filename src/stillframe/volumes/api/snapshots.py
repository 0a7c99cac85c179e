"""/snapshots: the requests clients send, and the view they read."""

from typing import Any

from stillframe.chain.names import canonical_id, lookup_id
from stillframe.db import snapshots
from stillframe.db.rows import SnapshotRow
from stillframe.errors import BadRequest, NotFound
from stillframe.volumes.api.volumes import META, METADATA, stamp
from stillframe.volumes.api.volumes import read as read_volume
from stillframe.volumes.rpcapi import worker
from stillframe.web import body, paging
from stillframe.web.route import Call, Route

FILTERS = {"name": "name", "display_name": "name", "status": "status", "volume_id": "volume_id", "project_id": "project_id"}
_SORTABLE = ("created_at", "updated_at", "name", "size", "status", "id", "volume_id")
_CREATE = body.wrapped(
    "snapshot",
    {
        "volume_id": {"type": ["string", "null"], "maxLength": 36},
        "name": body.NAME,
        "display_name": body.NAME,
        "description": body.DESCRIPTION,
        "force": {"type": ["boolean", "string", "null"], "maxLength": 8},
        "metadata": body.METADATA,
    },
    ("volume_id",),
)
_TRUE = ("1", "t", "true", "on", "y", "yes")
_UPDATE = body.wrapped("snapshot", {"name": body.NAME, "description": body.DESCRIPTION}, minProperties=1)
_FILESYSTEMS = {"type": "array", "items": {"type": "string", "maxLength": 255}, "maxItems": 64}
_CONSISTENCY = {
    "type": ["object", "null"],
    "properties": {
        "level": {"enum": ["filesystem", "crash"]},
        "frozen_ms": {"type": ["number", "null"], "minimum": 0},
        "filesystems": {"type": ["integer", "null"], "minimum": 0},
        "degraded_reason": {"type": ["string", "null"], "maxLength": 1024},
        "set_id": {"type": ["string", "null"], "maxLength": 36},
        "flushed": {"type": ["boolean", "null"]},
        "frozen": _FILESYSTEMS,
        "not_frozen": _FILESYSTEMS,
    },
    "required": ["level"],
    "additionalProperties": False,
}
RECORDED: dict[str, Any] = {
    "snapshot_id": {"type": ["string", "null"], "maxLength": 36},
    "name": body.NAME,
    "description": body.DESCRIPTION,
    "metadata": body.METADATA,
    "size": {"type": ["integer", "null"], "minimum": 1},
    "created_at": {"type": ["string", "null"], "maxLength": 64},
    "server_id": {"type": ["string", "null"], "maxLength": 36},
}
FINALIZED: dict[str, Any] = {
    "status": {"enum": ["available", "error"]},
    "active_file": {"type": ["string", "null"], "maxLength": 255},
    "created_at": {"type": ["string", "null"], "maxLength": 64},
    "consistency": _CONSISTENCY,
}
_CREATE_SNAPSHOT_METADATA = body.wrapped("os-create_snapshot_metadata", RECORDED)
_FINALIZE = body.wrapped("os-finalize_snapshot_metadata", FINALIZED, ("status",))
_DROP = body.wrapped("os-snapshot_delete_metadata", {})
_REPORT = body.wrapped(
    "os-update_snapshot_status",
    {
        "status": {"enum": ["creating", "available", "error", "deleting", "error_deleting"]},
        "progress": {"type": ["string", "null"], "pattern": r"^(100|[0-9]{1,2})%\Z"},
    },
    ("status",),
)


_STATUS = ["available", "error", "creating", "deleting", "error_deleting"]
_RESET = body.wrapped("os-reset_status", {"status": {"enum": _STATUS}}, ("status",))
_FORCE = {
    "type": "object",
    "properties": {"os-force_delete": {"type": ["object", "null"], "maxProperties": 0}},
    "required": ["os-force_delete"],
    "additionalProperties": False,
}


def view(call: Call, row: SnapshotRow, extended: bool = True) -> dict[str, Any]:
    """``extended``: with the keys that Cinder shows of a snapshot that is there, and not of one that is made or changed."""
    shown = {
        "id": row["id"],
        "name": row["name"],
        "description": row["description"],
        "volume_id": row["volume_id"],
        "status": row["status"],
        "size": row["size"],
        "metadata": row["metadata"],
        "created_at": stamp(row["created_at"]),
        "updated_at": stamp(row["updated_at"]),
    }
    if extended:
        shown["os-extended-snapshot-attributes:progress"] = row["progress"]
        shown["os-extended-snapshot-attributes:project_id"] = row["project_id"]
    if call.additions:
        shown["consistency"] = row["consistency"]
        if row["fault"]:
            shown["fault"] = row["fault"]
    for since, name, value in (
        ((3, 14), "group_snapshot_id", row["group_snapshot_id"]),
        ((3, 41), "user_id", row["user_id"]),
        ((3, 65), "consumes_quota", True),
    ):
        if call.version >= since:
            shown[name] = value
    return shown


def read(call: Call, snapshot_id: str) -> SnapshotRow:
    """Returns the snapshot's row. Raises NotFound."""
    with call.api.database.read() as connection:
        row = snapshots.get(connection, lookup_id(snapshot_id), call.project_of_one)
    if row is None:
        raise NotFound(f"Snapshot {snapshot_id} could not be found.")
    return row


def _path_id(call: Call, what: str) -> str:
    """The id in the path, where the worker looks the row up itself. Raises NotFound for what can be nothing's id."""
    try:
        return canonical_id(call.path["id"])
    except BadRequest as error:
        raise NotFound(f"{what} {call.path['id'][:64]} could not be found.") from error


def _list(call: Call, detail: bool) -> dict[str, Any]:
    page = paging.wanted(call, FILTERS, _SORTABLE)
    with call.api.database.read() as connection:
        rows = snapshots.list_page(connection, call.project, page)
    shown = [view(call, row) for row in rows]
    if not detail:
        brief = ("id", "name", "description", "volume_id", "status", "size", "metadata", "created_at", "updated_at")
        shown = [{key: entry[key] for key in brief} for entry in shown]
    return {
        "snapshots": shown,
        **paging.links(call, page, rows, "snapshots_links"),
        **paging.counted(call, page, snapshots.count),
    }


def list_brief(call: Call) -> dict[str, Any]:
    """``GET /snapshots``: the snapshots of the project, without what only the detail has."""
    return _list(call, detail=False)


def list_detail(call: Call) -> dict[str, Any]:
    """``GET /snapshots/detail``: the snapshots of the project, with progress and project."""
    return _list(call, detail=True)


def show(call: Call) -> dict[str, Any]:
    """With ``?explain=1`` also what a deletion would do; see ``stillframe.volumes.chain.explain``."""
    row = read(call, call.path["id"])
    shown = view(call, row)
    if call.explains:
        shown["deletion"] = explain_deletion(call)
    return {"snapshot": shown}


def create(call: Call) -> dict[str, Any]:
    """``POST /snapshots``: begins a snapshot of a volume. Raises BadRequest for an attached one that needs an assisted
    snapshot."""
    wanted = {key: value for key, value in call.body["snapshot"].items() if value is not None}
    if "volume_id" not in wanted:
        raise NotFound("Volume None could not be found: volume_id is null.")
    wanted.setdefault("name", wanted.pop("display_name", None))
    # From 3.66 on an attached volume needs no word for it.
    wanted["force"] = call.version >= (3, 66) or str(wanted.get("force")).lower() in _TRUE
    volume_id = read_volume(call, wanted["volume_id"])["id"]
    snapshot_id = worker(call).create_snapshot(call.context, volume_id=volume_id, wanted=wanted)
    return {"snapshot": view(call, read(call, snapshot_id), extended=False)}


def update(call: Call) -> dict[str, Any]:
    """``PUT /snapshots/{id}``: changes name or description. Raises NotFound."""
    snapshot_id = read(call, call.path["id"])["id"]
    worker(call).update_snapshot(call.context, snapshot_id=snapshot_id, changes=call.body["snapshot"])
    return {"snapshot": view(call, read(call, snapshot_id), extended=False)}


def delete(call: Call) -> None:
    """``?bandwidth_mib=N`` limits a merge under a running server to N MiB a second."""
    text = call.query.get("bandwidth_mib", "0")
    if not text.isdecimal() or len(text) > 7:
        raise BadRequest(f"bandwidth_mib must be a number of MiB a second, not {text[:20]!r}")
    worker(call).delete_snapshot(call.context, snapshot_id=read(call, call.path["id"])["id"], bandwidth_mib=int(text))


def explain_deletion(call: Call) -> dict[str, Any]:
    """What ``delete`` would do and copy."""
    return worker(call).explain_snapshots(call.context, snapshot_ids=[read(call, call.path["id"])["id"]])


def cancel_deletion(call: Call) -> None:
    """``os-cancel_deletion``: ends a merge under a running server. Raises NotFound, Conflict when none runs."""
    worker(call).cancel_snapshot_deletion(call.context, snapshot_id=read(call, call.path["id"])["id"])


def delete_several(call: Call) -> None:
    """Several snapshots of one volume as one plan, with the least copying; ``bandwidth_mib`` as in ``delete``."""
    limit = call.body["os-delete_snapshots"].get("bandwidth_mib") or 0
    worker(call).delete_snapshots(call.context, snapshot_ids=_several(call), bandwidth_mib=limit)


def explain_several(call: Call) -> dict[str, Any]:
    """What ``delete_several`` would do and copy."""
    return worker(call).explain_snapshots(call.context, snapshot_ids=_several(call))


def _several(call: Call) -> list[str]:
    """Returns the ids of the snapshots that are named. Raises BadRequest unless they are different ones of the volume."""
    volume_id = read_volume(call, call.path["id"])["id"]
    rows = [read(call, snapshot_id) for snapshot_id in call.body["os-delete_snapshots"]["snapshot_ids"]]
    if [row for row in rows if row["volume_id"] != volume_id] or len({row["id"] for row in rows}) != len(rows):
        raise BadRequest(f"snapshot_ids must be different snapshots of volume {volume_id}")
    return [row["id"] for row in rows]


def reset_status(call: Call) -> None:
    """``os-reset_status``: an administrator corrects the status of a row; no file is touched."""
    status = call.body["os-reset_status"]["status"]
    worker(call).reset_snapshot_status(call.context, snapshot_id=read(call, call.path["id"])["id"], status=status)


def force_delete(call: Call) -> None:
    """``os-force_delete``: begins the deletion whatever the status is; what protects data is checked all the same."""
    worker(call).delete_snapshot(call.context, snapshot_id=read(call, call.path["id"])["id"], force=True)


def show_metadata(call: Call) -> dict[str, Any]:
    """``GET /snapshots/{id}/metadata``: all keys and values. Raises NotFound."""
    return {"metadata": read(call, call.path["id"])["metadata"]}


def set_metadata(call: Call) -> dict[str, Any]:
    """``POST /snapshots/{id}/metadata``: adds or changes the keys that are given, and keeps the others."""
    return _change_metadata(call, replace=False)


def replace_metadata(call: Call) -> dict[str, Any]:
    """``PUT /snapshots/{id}/metadata``: the keys that are given become all there are."""
    return _change_metadata(call, replace=True)


def _change_metadata(call: Call, replace: bool) -> dict[str, Any]:
    snapshot_id = read(call, call.path["id"])["id"]
    metadata = call.body["metadata"]
    return {
        "metadata": worker(call).set_snapshot_metadata(
            call.context, snapshot_id=snapshot_id, metadata=metadata, replace=replace
        )
    }


def show_metadata_key(call: Call) -> dict[str, Any]:
    """``GET /snapshots/{id}/metadata/{key}``: one value. Raises NotFound."""
    metadata, key = read(call, call.path["id"])["metadata"], call.path["key"]
    if key not in metadata:
        raise NotFound(f"Snapshot {call.path['id']} has no metadata with key {key!r}.")
    return {"meta": {key: metadata[key]}}


def set_metadata_key(call: Call) -> dict[str, Any]:
    """``PUT /snapshots/{id}/metadata/{key}``: sets one value. Raises BadRequest when the body names another key."""
    if list(call.body["meta"]) != [call.path["key"]]:
        raise BadRequest("the key in the body is not the one in the path")
    snapshot_id = read(call, call.path["id"])["id"]
    worker(call).set_snapshot_metadata(call.context, snapshot_id=snapshot_id, metadata=call.body["meta"], replace=False)
    return {"meta": call.body["meta"]}


def delete_metadata_key(call: Call) -> None:
    """``DELETE /snapshots/{id}/metadata/{key}``: removes one key. Raises NotFound."""
    snapshot_id = read(call, call.path["id"])["id"]
    worker(call).delete_snapshot_metadata_key(call.context, snapshot_id=snapshot_id, key=call.path["key"])


def create_snapshot_metadata(call: Call) -> dict[str, Any]:
    """``os-create_snapshot_metadata``: a row in ``creating``; the answer names the overlay that compute makes. No file is
    touched."""
    given = call.body["os-create_snapshot_metadata"]
    wanted = {key: value for key, value in given.items() if value is not None}
    snapshot_id = worker(call).create_snapshot_metadata(call.context, volume_id=_path_id(call, "Volume"), wanted=wanted)
    return {"snapshot": view_with_file(call, read(call, snapshot_id))}


def view_with_file(call: Call, row: SnapshotRow) -> dict[str, Any]:
    """The view of a snapshot whose overlay compute makes, and what that is."""
    file = {"overlay": row["overlay"], "backing": row["backing"], "backing_format": row["backing_format"]}
    return {**view(call, row), "file": file}


def finalize(call: Call) -> None:
    """``os-finalize_snapshot_metadata``: the snapshot becomes ``available`` or ``error``; the same call
    again changes nothing."""
    wanted = {key: value for key, value in call.body["os-finalize_snapshot_metadata"].items() if value is not None}
    worker(call).finalize_snapshot_metadata(call.context, snapshot_id=_path_id(call, "Snapshot"), wanted=wanted)


def drop(call: Call) -> None:
    """``os-snapshot_delete_metadata``: deletes the row. Raises Conflict while a file of the chain carries the snapshot."""
    worker(call).snapshot_delete_metadata(call.context, snapshot_id=read(call, call.path["id"])["id"])


def report(call: Call) -> None:
    """``os-update_snapshot_status``: Nova's report of status and progress in percent. Raises BadRequest
    for a wrong transition."""
    wanted = call.body["os-update_snapshot_status"]
    snapshot_id = read(call, call.path["id"])["id"]
    worker(call).update_snapshot_status(
        call.context, snapshot_id=snapshot_id, status=wanted["status"], progress=wanted.get("progress")
    )


_CANCEL = {
    "type": "object",
    "properties": {"os-cancel_deletion": {"type": ["object", "null"], "maxProperties": 0}},
    "required": ["os-cancel_deletion"],
    "additionalProperties": False,
}
_SEVERAL = body.wrapped(
    "os-delete_snapshots",
    {
        "snapshot_ids": {"type": "array", "items": {"type": "string", "maxLength": 36}, "minItems": 1, "maxItems": 200},
        "bandwidth_mib": {"type": ["integer", "null"], "minimum": 0, "maximum": 1 << 20},
    },
    ("snapshot_ids",),
)
_ACTION = "/snapshots/{id}/action"
ROUTES = (
    Route(
        "POST",
        "/volumes/{id}/action",
        create_snapshot_metadata,
        "volume:create_snapshot_metadata",
        202,
        _CREATE_SNAPSHOT_METADATA,
        action="os-create_snapshot_metadata",
    ),
    Route("GET", "/snapshots", list_brief, "volume:get_snapshot"),
    Route("GET", "/snapshots/detail", list_detail, "volume:get_snapshot"),
    Route("GET", "/snapshots/{id}", show, "volume:get_snapshot"),
    Route("POST", "/snapshots", create, "volume:create_snapshot", 202, _CREATE),
    Route("PUT", "/snapshots/{id}", update, "volume:update_snapshot", 200, _UPDATE),
    Route("DELETE", "/snapshots/{id}", delete, "volume:delete_snapshot", 202, explain=explain_deletion),
    Route("GET", "/snapshots/{id}/metadata", show_metadata, "volume:get_snapshot"),
    Route("POST", "/snapshots/{id}/metadata", set_metadata, "volume:update_snapshot", 200, METADATA),
    Route("PUT", "/snapshots/{id}/metadata", replace_metadata, "volume:update_snapshot", 200, METADATA),
    Route("GET", "/snapshots/{id}/metadata/{key}", show_metadata_key, "volume:get_snapshot"),
    Route("PUT", "/snapshots/{id}/metadata/{key}", set_metadata_key, "volume:update_snapshot", 200, META),
    Route("DELETE", "/snapshots/{id}/metadata/{key}", delete_metadata_key, "volume:update_snapshot", 200),
    Route("POST", _ACTION, finalize, "volume:finalize_snapshot_metadata", 202, _FINALIZE, "os-finalize_snapshot_metadata"),
    Route("POST", _ACTION, drop, "volume:snapshot_delete_metadata", 202, _DROP, "os-snapshot_delete_metadata"),
    Route(
        "POST",
        _ACTION,
        reset_status,
        "volume_extension:snapshot_admin_actions:reset_status",
        202,
        _RESET,
        "os-reset_status",
    ),
    Route(
        "POST",
        _ACTION,
        force_delete,
        "volume_extension:snapshot_admin_actions:force_delete",
        202,
        _FORCE,
        "os-force_delete",
    ),
    Route("POST", _ACTION, cancel_deletion, "volume:delete_snapshot", 202, _CANCEL, "os-cancel_deletion"),
    Route(
        "POST",
        "/volumes/{id}/action",
        delete_several,
        "volume:delete_snapshot",
        202,
        _SEVERAL,
        "os-delete_snapshots",
        explain=explain_several,
    ),
    Route("POST", _ACTION, report, "volume:update_snapshot_status", 202, _REPORT, "os-update_snapshot_status"),
)

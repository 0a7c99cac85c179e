"""/group_snapshots: snapshots of all volumes of a group, taken as one."""

from typing import Any

from stillframe.chain.names import lookup_id
from stillframe.db import group_snapshots
from stillframe.db.group_rows import GroupSnapshotRow
from stillframe.errors import NotFound
from stillframe.volumes.api import groups
from stillframe.volumes.api.volumes import stamp
from stillframe.volumes.rpcapi import worker
from stillframe.web import body, paging
from stillframe.web.route import Call, Route

FILTERS = {"name": "name", "status": "status", "group_id": "group_id"}
_SORTABLE = ("created_at", "updated_at", "name", "status", "id", "group_id")
_CREATE = body.wrapped(
    "group_snapshot",
    {"group_id": {"type": "string", "maxLength": 36}, "name": body.NAME, "description": body.DESCRIPTION},
    ("group_id",),
)


def _view(row: GroupSnapshotRow) -> dict[str, Any]:
    return {
        "id": row["id"],
        "group_id": row["group_id"],
        "status": row["status"],
        "created_at": stamp(row["created_at"]),
        "name": row["name"],
        "description": row["description"],
        "group_type_id": row["group_type_id"],
    }


def _read(call: Call, group_snapshot_id: str) -> GroupSnapshotRow:
    with call.api.database.read() as connection:
        row = group_snapshots.get(connection, lookup_id(group_snapshot_id), call.project_of_one)
    if row is None:
        raise NotFound(f"GroupSnapshot {group_snapshot_id} could not be found.")
    return row


def _list(call: Call, detail: bool) -> dict[str, Any]:
    page = paging.wanted(call, FILTERS, _SORTABLE)
    with call.api.database.read() as connection:
        rows = group_snapshots.list_page(connection, call.project, page)
    shown = [_view(row) if detail else {"id": row["id"], "name": row["name"]} for row in rows]
    return {"group_snapshots": shown, **paging.links(call, page, rows, "group_snapshot_links")}


def list_brief(call: Call) -> dict[str, Any]:
    """``GET /group_snapshots``: id and name of each group snapshot of the project."""
    return _list(call, detail=False)


def list_detail(call: Call) -> dict[str, Any]:
    """``GET /group_snapshots/detail``: the group snapshots of the project, each as ``show`` has it."""
    return _list(call, detail=True)


def show(call: Call) -> dict[str, Any]:
    """``GET /group_snapshots/{id}``: one group snapshot. Raises NotFound."""
    return {"group_snapshot": _view(_read(call, call.path["id"]))}


def create(call: Call) -> dict[str, Any]:
    """``POST /group_snapshots``: begins the snapshots of all volumes of a group. Raises BadRequest, NotFound."""
    wanted = call.body["group_snapshot"]
    made = worker(call).create_group_snapshot(
        call.context,
        group_id=groups.read(call, wanted["group_id"])["id"],
        name=(wanted.get("name") or "").strip() or None,
        description=wanted.get("description"),
    )
    row = _read(call, made)
    return {"group_snapshot": {"id": row["id"], "name": row["name"], "group_type_id": row["group_type_id"]}}


def delete(call: Call) -> None:
    """``DELETE /group_snapshots/{id}``: begins the deletion of the snapshots it is made of. Raises BadRequest, NotFound."""
    worker(call).delete_group_snapshot(call.context, group_snapshot_id=_read(call, call.path["id"])["id"])


def reset_status(call: Call) -> None:
    """``reset_status``: an administrator corrects the status of a group snapshot; nothing else changes. Raises NotFound."""
    status, made = call.body["reset_status"]["status"], _read(call, call.path["id"])["id"]
    worker(call).reset_group_snapshot_status(call.context, group_snapshot_id=made, status=status)


_SINCE, _PATH = (3, 14), "/group_snapshots"
ROUTES = (
    Route("GET", _PATH, list_brief, "group:get_all_group_snapshots", since=_SINCE),
    Route("GET", f"{_PATH}/detail", list_detail, "group:get_all_group_snapshots", since=_SINCE),
    Route("GET", f"{_PATH}/{{id}}", show, "group:get_group_snapshot", since=_SINCE),
    Route("POST", _PATH, create, "group:create_group_snapshot", 202, _CREATE, since=_SINCE),
    Route("DELETE", f"{_PATH}/{{id}}", delete, "group:delete_group_snapshot", 202, since=_SINCE),
    Route(
        "POST",
        f"{_PATH}/{{id}}/action",
        reset_status,
        "group:reset_group_snapshot_status",
        202,
        groups.RESET,
        "reset_status",
        since=(3, 19),
    ),
)

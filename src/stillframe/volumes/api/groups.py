"""/groups: volumes that are used, snapshotted and deleted together."""

from dataclasses import replace
from typing import Any

from stillframe.chain.names import lookup_id
from stillframe.db import volume_groups
from stillframe.db.group_rows import VolumeGroupRow
from stillframe.errors import BadRequest, NotFound
from stillframe.volumes.api import group_types
from stillframe.volumes.api.volumes import refuse_private_type, stamp
from stillframe.volumes.rpcapi import worker
from stillframe.web import body, paging
from stillframe.web.route import Call, Route

FILTERS = {"name": "name", "status": "status", "group_type_id": "group_type_id"}
_SORTABLE = ("created_at", "updated_at", "name", "status", "id")
_NAMED = {"type": "string", "minLength": 1, "maxLength": 255}
_TEXT = {"type": ["string", "null"], "maxLength": 255}
_CREATE = body.wrapped(
    "group",
    {
        "name": body.NAME,
        "description": body.DESCRIPTION,
        "group_type": _NAMED,
        "volume_types": {"type": "array", "items": _NAMED, "minItems": 1, "maxItems": 256, "uniqueItems": True},
        "availability_zone": _TEXT,
    },
    ("group_type", "volume_types"),
)
_VOLUMES = {"type": ["string", "null"], "maxLength": 37 * 1000}  # ids, with commas between them
_UPDATE = body.wrapped(
    "group",
    {"name": body.NAME, "description": body.DESCRIPTION, "add_volumes": _VOLUMES, "remove_volumes": _VOLUMES},
    minProperties=1,
)
_DELETE = body.wrapped("delete", {"delete-volumes": {"type": ["boolean", "string", "null"], "maxLength": 8}})
_FROM_SOURCE = body.wrapped(
    "create-from-src",
    {
        "name": body.NAME,
        "description": body.DESCRIPTION,
        "group_snapshot_id": {"type": ["string", "null"], "maxLength": 36},
        "source_group_id": {"type": ["string", "null"], "maxLength": 36},
    },
)
STATUS = ["available", "creating", "deleting", "error", "error_deleting", "updating"]
RESET = body.wrapped("reset_status", {"status": {"enum": STATUS}}, ("status",))


def brief(row: VolumeGroupRow) -> dict[str, Any]:
    """What an answer to a creation, and a list without details, says of a group."""
    return {"id": row["id"], "name": row["name"]}


def _views(call: Call, rows: list[VolumeGroupRow]) -> list[dict[str, Any]]:
    ids = [row["id"] for row in rows]
    lists = call.version >= (3, 25) and call.query.get("list_volume", "").lower() in ("true", "1")
    with call.api.database.read() as connection:
        types = volume_groups.volume_types(connection, ids)
        members = volume_groups.member_ids(connection, ids) if lists else {}
    return [_view(call, row, types[row["id"]], members.get(row["id"])) for row in rows]


def _view(call: Call, row: VolumeGroupRow, types: list[str], members: list[str] | None) -> dict[str, Any]:
    view = {
        **brief(row),
        "status": row["status"],
        "availability_zone": row["availability_zone"],
        "created_at": stamp(row["created_at"]),
        "description": row["description"],
        "group_type": row["group_type_id"],
        "volume_types": types,
    }
    if call.version >= (3, 14):
        view |= {"group_snapshot_id": row["group_snapshot_id"], "source_group_id": row["source_group_id"]}
    if members is not None:
        view["volumes"] = members
    return view | ({"replication_status": "disabled"} if call.version >= (3, 38) else {})


def read(call: Call, group_id: str) -> VolumeGroupRow:
    """Returns the group's row. Raises NotFound."""
    with call.api.database.read() as connection:
        row = volume_groups.get(connection, lookup_id(group_id), call.project_of_one)
    if row is None:
        raise NotFound(f"Group {group_id} could not be found.")
    return row


def _list(call: Call, detail: bool) -> dict[str, Any]:
    listed = {key: value for key, value in call.query.items() if key != "list_volume"}  # says what is shown, not of which
    page = paging.wanted(replace(call, query=listed), FILTERS, _SORTABLE)
    with call.api.database.read() as connection:
        rows = volume_groups.list_page(connection, call.project, page)
    shown = _views(call, rows) if detail else [brief(row) for row in rows]
    return {"groups": shown, **paging.links(call, page, rows, "group_links")}


def list_brief(call: Call) -> dict[str, Any]:
    """``GET /groups``: id and name of each group of the project."""
    return _list(call, detail=False)


def list_detail(call: Call) -> dict[str, Any]:
    """``GET /groups/detail``: the groups of the project, each as ``show`` has it."""
    return _list(call, detail=True)


def show(call: Call) -> dict[str, Any]:
    """``GET /groups/{id}``: one group, from 3.25 on with its volumes if ``list_volume`` asks for them. Raises NotFound."""
    return {"group": _views(call, [read(call, call.path["id"])])[0]}


def create(call: Call) -> dict[str, Any]:
    """``POST /groups``: makes a group without volumes. Raises NotFound for a type of either kind that the caller may not
    use."""
    wanted = {key: value for key, value in call.body["group"].items() if value is not None}
    for name in wanted["volume_types"]:
        refuse_private_type(call, name)
    wanted["group_type"] = group_types.find(call, wanted["group_type"])["id"]
    wanted["name"] = wanted.get("name", "").strip() or None
    return {"group": brief(read(call, worker(call).create_group(call.context, wanted=wanted)))}


def create_from_source(call: Call) -> dict[str, Any]:
    """``create-from-src``: begins a group with copies of what another group, or a group snapshot, has. Raises BadRequest,
    NotFound."""
    wanted = {key: value for key, value in call.body["create-from-src"].items() if value is not None}
    wanted |= {key: lookup_id(wanted[key]) for key in ("group_snapshot_id", "source_group_id") if wanted.get(key)}
    wanted["name"] = wanted.get("name", "").strip() or None
    return {"group": brief(read(call, worker(call).create_group_from_source(call.context, wanted=wanted)))}


def _ids(given: str | None) -> list[str]:
    return [each.strip() for each in (given or "").split(",") if each.strip()]


def update(call: Call) -> None:
    """``PUT /groups/{id}``: changes name or description, adds volumes and removes some. Raises BadRequest, NotFound."""
    given = call.body["group"]
    changes: dict[str, Any] = {key: given[key].strip() for key in ("name", "description") if given.get(key) is not None}
    changes |= {key: _ids(given[key]) for key in ("add_volumes", "remove_volumes") if _ids(given.get(key))}
    if not changes:
        raise BadRequest("Invalid group: name, description, add_volumes and remove_volumes cannot be all empty in the request.")
    group_id = read(call, call.path["id"])["id"]
    worker(call).update_group(call.context, group_id=group_id, changes=changes)


def delete(call: Call) -> None:
    """``delete``: deletes a group, with ``delete-volumes`` its volumes too. Raises BadRequest, NotFound."""
    with_volumes = str(call.body["delete"].get("delete-volumes")).lower() in ("true", "1", "yes", "on", "t", "y")
    worker(call).delete_group(call.context, group_id=read(call, call.path["id"])["id"], delete_volumes=with_volumes)


def reset_status(call: Call) -> None:
    """``reset_status``: an administrator corrects the status of a group; nothing else changes. Raises NotFound."""
    status = call.body["reset_status"]["status"]
    worker(call).reset_group_status(call.context, group_id=read(call, call.path["id"])["id"], status=status)


_SINCE, _ACTION = (3, 13), "/groups/{id}/action"
ROUTES = (
    Route("GET", "/groups", list_brief, "group:get_all", since=_SINCE),
    Route("GET", "/groups/detail", list_detail, "group:get_all", since=_SINCE),
    Route("GET", "/groups/{id}", show, "group:get", since=_SINCE),
    Route("POST", "/groups", create, "group:create", 202, _CREATE, since=_SINCE),
    Route("POST", "/groups/action", create_from_source, "group:create", 202, _FROM_SOURCE, "create-from-src", since=(3, 14)),
    Route("PUT", "/groups/{id}", update, "group:update", 202, _UPDATE, since=_SINCE),
    Route("POST", _ACTION, delete, "group:delete", 202, _DELETE, "delete", since=_SINCE),
    Route("POST", _ACTION, reset_status, "group:reset_status", 202, RESET, "reset_status", since=(3, 20)),
)

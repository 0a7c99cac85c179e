"""os-assisted-snapshots: the set of snapshots taken of one server at one instant."""

from typing import Any

from stillframe.chain.names import lookup_id
from stillframe.compute.api.assisted_snapshot_settings import ALLOW_UNFREEZABLE, HOOK_TIMEOUT, QUIESCE, VOLUMES
from stillframe.compute.rpcapi import worker
from stillframe.db import assisted_snapshots
from stillframe.db.queries import Page
from stillframe.db.rows import AssistedSnapshotRow
from stillframe.errors import BadRequest, NotFound
from stillframe.web import body, paging
from stillframe.web.route import Call, Route

_FILTERS = {"name": "name", "status": "status", "server_id": "server_id", "policy_id": "policy_id"}
_SORTABLE = ("created_at", "name", "status", "id", "server_id")
_RESERVED = {"not": {"pattern": "^stillframe:"}}  # keys of metadata that only we may set
_LABELS = {
    "name": body.NAME,
    "description": body.DESCRIPTION,
    "metadata": {**body.METADATA, "propertyNames": {**body.METADATA["propertyNames"], **_RESERVED}},
}
_UPDATE = body.wrapped("assisted_snapshot", _LABELS, minProperties=1)
_RESET = body.wrapped("os-reset_status", {"status": {"enum": ["available", "error"]}}, ("status",))
_CREATE = body.wrapped(
    "assisted_snapshot",
    {
        **_LABELS,
        "volumes": VOLUMES,
        "quiesce": QUIESCE,
        "allow_unfreezable": ALLOW_UNFREEZABLE,
        "hook_timeout": HOOK_TIMEOUT,
        "id": {"type": ["string", "null"], "pattern": r"^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}\Z"},
        "wait": {"type": ["integer", "null"], "minimum": 0, "maximum": 86400},
    },
)


def view(row: AssistedSnapshotRow) -> dict[str, Any]:
    """Returns a set as the API shows it, with each of its volumes and the disks that were left out."""
    return {
        "id": row["id"],
        "server_id": row["server_id"],
        "name": row["name"],
        "description": row["description"],
        "metadata": row["metadata"],
        "status": row["status"],
        "progress": row["progress"],
        "created_at": row["created_at"].isoformat(timespec="microseconds"),
        "switched_at": row["switched_at"].isoformat(timespec="microseconds") if row["switched_at"] else None,
        "switched_at_uncertainty_ms": row["switched_at_uncertainty_ms"],
        "switched_at_note": row["switched_at_note"],
        "quiesce": row["quiesce"],
        "consistency": row["consistency"],
        "volumes": row["volumes"],
        "excluded_disks": row["excluded_disks"],
        "fault": row["fault"],
        "policy_id": row["policy_id"],
        "warnings": row["warnings"] or [],
    }


def _rows(call: Call, server_id: str | None) -> tuple[Page, list[AssistedSnapshotRow]]:
    page = paging.wanted(call, _FILTERS, _SORTABLE)
    if server_id is not None:
        page = Page(page.limit, page.marker, page.offset, page.sort, {**page.filters, "server_id": server_id})
    with call.api.database.read() as connection:
        return page, assisted_snapshots.list_page(connection, call.project, page)


def _listing(call: Call, server_id: str | None) -> dict[str, Any]:
    page, rows = _rows(call, server_id)
    links = paging.links(call, page, rows, "assisted_snapshots_links")
    return {"assisted_snapshots": [view(row) for row in rows], **links}


def list_all(call: Call) -> dict[str, Any]:
    """``GET /os-assisted-snapshots``: the sets of the project, newest first."""
    return _listing(call, None)


def list_of_server(call: Call) -> dict[str, Any]:
    """``GET /servers/{id}/os-assisted-snapshots``: the sets of one server, newest first."""
    return _listing(call, lookup_id(call.path["id"]))


def read(call: Call, set_id: str) -> AssistedSnapshotRow:
    """Returns the set's row. Raises NotFound."""
    with call.api.database.read() as connection:
        row = assisted_snapshots.get(connection, lookup_id(set_id), call.project_of_one)
    if row is None or row["server_id"] != lookup_id(call.path.get("id", row["server_id"])):
        raise NotFound(f"Assisted snapshot {set_id} could not be found.")
    return row


def show(call: Call) -> dict[str, Any]:
    """With ``?explain=1`` also what a deletion would do, as ``deletion``."""
    shown = view(read(call, call.path["set_id"]))
    if call.explains:
        shown["deletion"] = explain_delete(call)
    return {"assisted_snapshot": shown}


def create(call: Call) -> dict[str, Any]:
    """``POST /servers/{id}/os-assisted-snapshots``: begins a set. Raises as the worker does; then nothing was created."""
    given = {key: value for key, value in call.body["assisted_snapshot"].items() if value is not None}
    if isinstance(given.get("volumes"), list) and len(given["volumes"]) > call.api.settings.compute.max_volumes_per_set:
        raise BadRequest(f"at most {call.api.settings.compute.max_volumes_per_set} volumes fit in one set")
    if "id" in given:
        given["set_id"] = given.pop("id")
    wanted = {"volumes": "all", **given}
    set_id = worker(call).create_assisted_snapshot(call.context, server_id=call.path["id"], wanted=wanted)
    return {"assisted_snapshot": view(read(call, set_id))}


def update(call: Call) -> dict[str, Any]:
    """``PUT /os-assisted-snapshots/{set_id}``: changes name, description or metadata. Raises NotFound."""
    row = read(call, call.path["set_id"])
    changes = dict(call.body["assisted_snapshot"])
    if "metadata" in changes:
        changes["metadata"] = changes["metadata"] or {}
    worker(call).change_assisted_snapshot(call.context, set_id=row["id"], changes=changes)
    return {"assisted_snapshot": view(read(call, row["id"]))}


def delete(call: Call) -> None:
    """``DELETE .../{set_id}``: begins to delete every snapshot of the set. Raises NotFound, Conflict."""
    row = read(call, call.path["set_id"])
    worker(call).delete_assisted_snapshot(call.context, server_id=row["server_id"], set_id=row["id"])


def explain_delete(call: Call) -> dict[str, Any]:
    """What ``delete`` would do and copy, volume by volume."""
    row = read(call, call.path["set_id"])
    return worker(call).explain_assisted_snapshot(call.context, server_id=row["server_id"], set_id=row["id"])


def reset_status(call: Call) -> None:
    """``os-reset_status``: an administrator corrects the status of a row; no file is touched."""
    status = call.body["os-reset_status"]["status"]
    worker(call).reset_assisted_snapshot_status(call.context, set_id=read(call, call.path["set_id"])["id"], status=status)


_OF_SERVER = "/servers/{id}/os-assisted-snapshots"
_INDEX = "os_compute_api:os-assisted-snapshots:index"
_DELETE = "os_compute_api:os-assisted-snapshots:delete"
_RESET_RULE = "os_compute_api:os-assisted-snapshots:reset_status"
ROUTES = (
    Route("GET", "/os-assisted-snapshots", list_all, _INDEX),
    Route("GET", "/os-assisted-snapshots/{set_id}", show, _INDEX),
    Route("PUT", "/os-assisted-snapshots/{set_id}", update, "os_compute_api:os-assisted-snapshots:update", 200, _UPDATE),
    Route("POST", "/os-assisted-snapshots/{set_id}/action", reset_status, _RESET_RULE, 202, _RESET, "os-reset_status"),
    Route("GET", _OF_SERVER, list_of_server, _INDEX),
    Route("GET", f"{_OF_SERVER}/{{set_id}}", show, _INDEX),
    Route("POST", _OF_SERVER, create, "os_compute_api:os-assisted-snapshots:create", 202, _CREATE),
    Route("DELETE", f"{_OF_SERVER}/{{set_id}}", delete, _DELETE, 202, explain=explain_delete),
    Route("DELETE", "/os-assisted-snapshots/{set_id}", delete, _DELETE, 202, explain=explain_delete),
)

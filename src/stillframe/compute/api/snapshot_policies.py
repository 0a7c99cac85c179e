"""os-snapshot-policies: which snapshots of a server are taken automatically, when, and how many are kept."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from stillframe.chain.names import lookup_id
from stillframe.compute.api.assisted_snapshot_settings import QUIESCE, VOLUMES
from stillframe.compute.rpcapi import worker
from stillframe.db import assisted_snapshots, snapshot_policies
from stillframe.db.queries import Page
from stillframe.db.rows import AssistedSnapshotRow, SnapshotPolicyRow
from stillframe.errors import NotFound
from stillframe.web import body, paging
from stillframe.web.route import Call, Route

_FILTERS = {"name": "name", "server_id": "server_id"}
_SORTABLE = ("created_at", "name", "id", "server_id", "next_run", "last_run")
_COUNT = {"type": ["integer", "null"], "minimum": 0, "maximum": 1000}
_PROPERTIES: dict[str, Any] = {
    "name": body.NAME,
    "description": body.DESCRIPTION,
    "schedule": {"type": ["string", "null"], "maxLength": 128, "pattern": r"^[0-9A-Za-z*/,\-#\t ]*\Z"},
    "timezone": {"type": ["string", "null"], "maxLength": 64, "pattern": r"^[0-9A-Za-z_+\-/]*\Z"},
    "quiesce": QUIESCE,
    "volumes": VOLUMES,
    "keep_last": _COUNT,
    "keep_hourly": _COUNT,
    "keep_daily": _COUNT,
    "keep_weekly": _COUNT,
    "enabled": {"type": ["boolean", "null"]},
}
_CREATE = body.wrapped("snapshot_policy", _PROPERTIES)
_UPDATE = body.wrapped("snapshot_policy", _PROPERTIES, minProperties=1)
_SHOWN = (
    "id",
    "server_id",
    "name",
    "description",
    "schedule",
    "timezone",
    "quiesce",
    "volumes",
    "keep_last",
    "keep_hourly",
    "keep_daily",
    "keep_weekly",
    "enabled",
    "last_set_id",
    "retention_error",
    "retention_note",
)


def view(row: SnapshotPolicyRow, failed: list[AssistedSnapshotRow]) -> dict[str, Any]:
    """Returns a policy as it is shown; ``failed`` are its sets in "error". A last set that failed is the last error, too."""
    shown: Mapping[str, Any] = row
    last = next((each for each in failed if each["id"] == row["last_set_id"]), None)
    return {
        **{name: shown[name] for name in _SHOWN},
        "last_error": row["last_error"] or (last and last["fault"]),
        "failed_sets": [{"id": each["id"], "fault": each["fault"]} for each in failed],
        **{name: _stamp(shown[name]) for name in ("created_at", "updated_at", "next_run", "last_run")},
    }


def _stamp(at: datetime | None) -> str | None:
    return at.isoformat(timespec="microseconds") if at is not None else None


def _listing(call: Call, server_id: str | None) -> dict[str, Any]:
    page = paging.wanted(call, _FILTERS, _SORTABLE)
    if server_id is not None:
        page = Page(page.limit, page.marker, page.offset, page.sort, {**page.filters, "server_id": server_id})
    with call.api.database.read() as connection:
        rows = snapshot_policies.list_page(connection, call.project, page)
        failed = assisted_snapshots.failed_of(connection, [row["id"] for row in rows])
    links = paging.links(call, page, rows, "snapshot_policies_links")
    shown = [view(row, [each for each in failed if each["policy_id"] == row["id"]]) for row in rows]
    return {"snapshot_policies": shown, **links}


def list_all(call: Call) -> dict[str, Any]:
    """``GET /os-snapshot-policies``: the policies of the project, newest first."""
    return _listing(call, None)


def list_of_server(call: Call) -> dict[str, Any]:
    """``GET /servers/{id}/os-snapshot-policies``: the policies of one server, newest first."""
    return _listing(call, lookup_id(call.path["id"]))


def _answer(call: Call, policy_id: str) -> dict[str, Any]:
    with call.api.database.read() as connection:
        row = snapshot_policies.get(connection, lookup_id(policy_id), call.project_of_one)
        failed = assisted_snapshots.failed_of(connection, [row["id"]]) if row is not None else []
    if row is None:
        raise NotFound(f"Snapshot policy {policy_id} could not be found.")
    return {"snapshot_policy": view(row, failed)}


def show(call: Call) -> dict[str, Any]:
    """``GET /os-snapshot-policies/{id}``: one policy. Raises NotFound."""
    return _answer(call, call.path["policy_id"])


def create(call: Call) -> dict[str, Any]:
    """``POST /servers/{id}/os-snapshot-policies``: makes a policy. Raises BadRequest, NotFound, QuotaExceeded."""
    policy_id = worker(call).create_snapshot_policy(
        call.context, server_id=call.path["id"], wanted=call.body["snapshot_policy"]
    )
    return _answer(call, policy_id)


def update(call: Call) -> dict[str, Any]:
    """``PUT /os-snapshot-policies/{id}``: changes what is named; null means the default. Raises BadRequest, NotFound."""
    policy_id = _answer(call, call.path["policy_id"])["snapshot_policy"]["id"]
    worker(call).change_snapshot_policy(call.context, policy_id=policy_id, changes=call.body["snapshot_policy"])
    return _answer(call, policy_id)


def delete(call: Call) -> None:
    """``DELETE /os-snapshot-policies/{id}``: deletes the policy; its sets stay. Raises NotFound."""
    policy_id = _answer(call, call.path["policy_id"])["snapshot_policy"]["id"]
    worker(call).delete_snapshot_policy(call.context, policy_id=policy_id)


_OF_SERVER, _ONE = "/servers/{id}/os-snapshot-policies", "/os-snapshot-policies/{policy_id}"
_RULE = "os_compute_api:os-snapshot-policies"
ROUTES = (
    Route("GET", "/os-snapshot-policies", list_all, f"{_RULE}:index"),
    Route("GET", _ONE, show, f"{_RULE}:index"),
    Route("PUT", _ONE, update, f"{_RULE}:update", 200, _UPDATE),
    Route("DELETE", _ONE, delete, f"{_RULE}:delete", 204),
    Route("GET", _OF_SERVER, list_of_server, f"{_RULE}:index"),
    Route("POST", _OF_SERVER, create, f"{_RULE}:create", 201, _CREATE),
)

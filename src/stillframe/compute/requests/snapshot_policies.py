"""Requests about snapshot policies. Contradictory ones are refused here, before anything is stored."""

import uuid
import zoneinfo
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from stillframe.chain import names
from stillframe.compute.clients import chain_limits
from stillframe.compute.clients.chain_limits import ChainLimits
from stillframe.compute.libvirt import servers
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.requests import assisted_snapshot_settings as settings_requests
from stillframe.compute.snapshot_policies import retention
from stillframe.compute.snapshot_policies.retention import Rules
from stillframe.compute.worker.context import WorkerContext
from stillframe.context import Context
from stillframe.db import snapshot_policies
from stillframe.db.rows import SnapshotPolicyRow
from stillframe.db.tables import now
from stillframe.db.values import NewSnapshotPolicy, PolicyTermChanges, PolicyTerms, SnapshotPolicyChanges
from stillframe.errors import BadRequest, NotFound, QuotaExceeded

MOST_PER_SERVER = 32
DEFAULTS: PolicyTerms = {
    "name": None,
    "description": None,
    "schedule": None,
    "timezone": "UTC",
    "quiesce": "preferred",
    "volumes": "all",
    "keep_last": 0,
    "keep_hourly": 0,
    "keep_daily": 0,
    "keep_weekly": 0,
    "enabled": True,
}


def rules_of(row: PolicyTerms) -> Rules:
    """Returns how many sets a policy keeps."""
    return Rules(row["keep_last"], row["keep_hourly"], row["keep_daily"], row["keep_weekly"])


def zone_of(row: PolicyTerms) -> zoneinfo.ZoneInfo:
    """Returns the clock the policy goes by. Raises BadRequest for a name this host does not know."""
    if row["timezone"] not in zoneinfo.available_timezones():
        raise BadRequest(
            f"time zone {row['timezone']!r} is not known on this host; give a name such as UTC or Europe/Berlin, and see"
            " that the system's tzdata is installed"
        )
    return zoneinfo.ZoneInfo(row["timezone"])


def next_run(row: PolicyTerms, after: datetime) -> datetime | None:
    """Returns when the policy takes its next set, as rows carry times (naive UTC); None: never. Raises BadRequest."""
    if row["schedule"] is None:
        return None
    try:
        due = retention.next_due(row["schedule"], zone_of(row), after.replace(tzinfo=UTC))
    except ValueError as error:
        raise BadRequest(f"schedule {row['schedule']!r} is no cron expression: {error}") from error
    return due.replace(tzinfo=None) if due is not None else None


def create(worker: WorkerContext, context: Context, server_id: str, wanted: Mapping[str, Any]) -> str:
    """Stores a policy; returns its id. Raises NotFound, BadRequest, QuotaExceeded, ServiceUnavailable."""
    server = servers.find(worker, context, server_id)
    usual = settings_requests.effective(worker, server.id, {})["quiesce"]
    terms: PolicyTerms = {**DEFAULTS, "quiesce": usual, **_canonical(wanted)}
    _check(worker, terms)
    _check_attached(server, terms["volumes"])
    _check_depth(worker, server.id, server.project_id, _keeps(terms))
    row = _new_row(context, server, terms)
    with worker.database.write() as connection:
        if snapshot_policies.count_of_server(connection, server.id) >= MOST_PER_SERVER:
            raise QuotaExceeded(f"server {server.id} has {MOST_PER_SERVER} snapshot policies already, more are not allowed")
        snapshot_policies.insert(connection, row)
    return row["id"]


def _new_row(context: Context, server: Server, terms: PolicyTerms) -> NewSnapshotPolicy:
    return {
        "id": str(uuid.uuid4()),
        "project_id": server.project_id,
        "user_id": context.user_id,
        "server_id": server.id,
        "name": terms["name"],
        "description": terms["description"],
        "schedule": terms["schedule"],
        "timezone": terms["timezone"],
        "quiesce": terms["quiesce"],
        "volumes": terms["volumes"],
        "keep_last": terms["keep_last"],
        "keep_hourly": terms["keep_hourly"],
        "keep_daily": terms["keep_daily"],
        "keep_weekly": terms["keep_weekly"],
        "enabled": terms["enabled"],
        "next_run": next_run(terms, now()) if terms["enabled"] else None,
    }


def change(worker: WorkerContext, context: Context, policy_id: str, changes: Mapping[str, Any]) -> None:
    """Changes what is named; a changed schedule counts from now. Raises NotFound, BadRequest,
    ServiceUnavailable."""
    row = _find(worker, context, policy_id)
    values = _canonical(changes)
    changed: PolicyTerms = {**_terms(row), **values}
    _check(worker, changed)
    was = _keeps(row)
    _check_depth(
        worker, row["server_id"], row["project_id"], {name: n for name, n in _keeps(changed).items() if n != was[name]}
    )
    if "volumes" in values and values["volumes"] != "all":
        _check_attached(servers.find(worker, context, row["server_id"]), values["volumes"])
    timing: SnapshotPolicyChanges = {}
    if _timing(changed) != _timing(row):
        due = next_run(changed, now()) if changed["enabled"] else None
        timing = {"next_run": due, "due_at": None, "trying_since": None}
    with worker.database.write() as connection:
        whole: SnapshotPolicyChanges = {**values, **timing}
        snapshot_policies.change(connection, row["id"], **whole)


def delete(worker: WorkerContext, context: Context, policy_id: str) -> None:
    """Deletes a policy. Its sets stay, and nothing deletes them any more. Raises NotFound."""
    row = _find(worker, context, policy_id)
    with worker.database.write() as connection:
        snapshot_policies.delete(connection, row["id"])


def _find(worker: WorkerContext, context: Context, policy_id: str) -> SnapshotPolicyRow:
    project = None if context.sees_all_projects else context.project_id
    with worker.database.read() as connection:
        row = snapshot_policies.get(connection, policy_id, project)
    if row is None:
        raise NotFound(f"Snapshot policy {policy_id} could not be found.")
    return row


def _terms(row: SnapshotPolicyRow) -> PolicyTerms:
    return {
        "name": row["name"],
        "description": row["description"],
        "schedule": row["schedule"],
        "timezone": row["timezone"],
        "quiesce": row["quiesce"],
        "volumes": row["volumes"],
        "keep_last": row["keep_last"],
        "keep_hourly": row["keep_hourly"],
        "keep_daily": row["keep_daily"],
        "keep_weekly": row["keep_weekly"],
        "enabled": row["enabled"],
    }


def _keeps(terms: PolicyTerms) -> dict[str, int]:
    return {
        "keep_last": terms["keep_last"],
        "keep_hourly": terms["keep_hourly"],
        "keep_daily": terms["keep_daily"],
        "keep_weekly": terms["keep_weekly"],
    }


def _timing(terms: PolicyTerms) -> tuple[object, ...]:
    return terms["schedule"], terms["timezone"], terms["enabled"]


def _canonical(wanted: Mapping[str, Any]) -> PolicyTermChanges:
    """Null means the default; a schedule has single blanks; volumes are named by canonical ids."""
    usual: Mapping[str, Any] = DEFAULTS
    values = {name: usual[name] if value is None else value for name, value in wanted.items()}
    if values.get("schedule") is not None:
        values["schedule"] = " ".join(values["schedule"].split())
    if isinstance(values.get("volumes"), list):
        values["volumes"] = [names.canonical_id(each, "volume id") for each in values["volumes"]]
        if len(set(values["volumes"])) != len(values["volumes"]):
            raise BadRequest("a volume is named twice")
    return cast("PolicyTermChanges", values)  # the names are the schema's


def _check(worker: WorkerContext, row: PolicyTerms) -> None:
    if row["schedule"] is None and not rules_of(row).any:
        raise BadRequest("the policy neither takes nor deletes anything: give it a schedule, or a number of sets to keep")
    zone_of(row)
    if row["schedule"] is not None and next_run(row, now()) is None:
        raise BadRequest(f"schedule {row['schedule']!r} names no time that ever comes")
    listed = len(row["volumes"]) if row["volumes"] != "all" else 0
    if listed > worker.settings.compute.max_volumes_per_set:
        raise BadRequest(f"at most {worker.settings.compute.max_volumes_per_set} volumes fit in one set")


def _check_depth(worker: WorkerContext, server_id: str, project_id: str, keeps: Mapping[str, int]) -> None:
    """Raises BadRequest for a number of sets to keep that no chain has room for; ServiceUnavailable when block storage, which
    says how deep one may be, does not answer."""
    kept = {name: number for name, number in keeps.items() if number}
    if not kept:
        return
    attached = worker.storage.attachments_of(server_id, project_id)
    most = min((chain_limits.of(each["connection_info"] or {}) for each in attached), key=_depth, default=ChainLimits())
    for name, number in kept.items():
        if number >= most.max_chain_depth:
            raise BadRequest(
                f"{name} is {number}, but a volume can have at most {most.max_chain_depth - 1} snapshots (max_chain_depth)"
            )


def _depth(limits: ChainLimits) -> int:
    return limits.max_chain_depth


def _check_attached(server: Server, volumes: Any) -> None:
    attached = {volume_id for volume_id, _ in server.volumes()}
    missing = [] if volumes == "all" else [each for each in volumes if each not in attached]
    if missing:
        raise BadRequest(f"not attached to server {server.id} as a volume: {', '.join(missing[:20])}", volumes=missing[:128])

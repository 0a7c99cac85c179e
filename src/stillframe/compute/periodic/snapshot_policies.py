"""What the worker's timer does for snapshot policies: it takes the runs that are due and deletes the sets that no rule keeps.
Every run and every deletion takes the same path as a user's request, and is refused for the same reasons. A run is taken by
whoever moves ``next_run`` on (compare-and-swap), and makes a set whose id follows from the policy and the time, so that it is
made once even if the worker dies in between (I9).
"""

import logging
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from stillframe.compute.libvirt import chain_depth
from stillframe.compute.requests import assisted_snapshot_deletions
from stillframe.compute.requests import assisted_snapshots as assisted_snapshot_requests
from stillframe.compute.requests import snapshot_policies as policy_requests
from stillframe.compute.snapshot_policies import retention
from stillframe.compute.snapshot_policies.retention import Taken
from stillframe.compute.worker.context import WorkerContext
from stillframe.context import Context, bind_log, new_request_id
from stillframe.db import assisted_snapshots, operations, snapshot_policies
from stillframe.db.rows import AssistedSnapshotRow, SnapshotPolicyRow
from stillframe.db.values import SnapshotPolicyChanges
from stillframe.errors import Busy, HostCommandFailed, StepFailed, StillframeError

LOG = logging.getLogger(__name__)
LEASE = timedelta(seconds=60)  # how long a run that has begun belongs to whoever began it
RETRY = timedelta(seconds=20)
PATIENCE = timedelta(minutes=5)  # for a fault that a person must mend; a busy server is waited for longer
PAUSES = (timedelta(minutes=1), timedelta(hours=1))  # before a refused deletion is tried again: doubled from, up to
CLOCK_SLACK = timedelta(minutes=5)  # more than the longest of LEASE and RETRY
LOOK = timedelta(minutes=1)  # at the depth of a server's chains
Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Pause:
    """``length`` doubles with each refusal."""

    until: datetime
    length: timedelta

    def lasts(self, moment: datetime) -> bool:
        """Tells whether it is not over at that moment. One that has longer to go than it is long began before the clock was set
        back."""
        return moment < self.until <= moment + self.length


Pauses = dict[str, Pause]  # of one server: until when sets, and under its own id its chains, are left alone


class Scheduler:
    """Called by the timer; never waits. A share or guest that does not answer delays no other server."""

    def __init__(self, worker: WorkerContext, wake: Callable[[], None], clock: Clock | None = None) -> None:
        self._worker = worker
        self._wake = wake
        self._clock = clock or worker.database.utc
        self._pool = ThreadPoolExecutor(worker.settings.workers, thread_name_prefix="compute-policies")
        self._lock = threading.Lock()
        self._serving: set[str] = set()
        self._closed = False
        self._pauses: dict[str, Pauses] = {}  # by server

    def look(self) -> None:
        """Gives every server with something due to a thread, unless one works on it already."""
        with self._worker.database.read() as connection:
            policies = snapshot_policies.enabled(connection)
        for server_id in {row["server_id"]: None for row in policies}:
            with self._lock:
                if self._closed or server_id in self._serving:
                    continue
                self._serving.add(server_id)
                self._pool.submit(self._serve, server_id)

    def close(self) -> None:
        """Waits for what was begun; begins no more."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _serve(self, server_id: str) -> None:
        try:
            self.serve(server_id)
        except Exception:
            LOG.exception("the snapshot policies of server %s were not looked at", server_id)
        finally:
            with self._lock:
                self._serving.discard(server_id)

    def serve(self, server_id: str) -> None:
        """Takes what is due for one server, then begins at most one deletion."""
        moment = self._clock()
        with self._worker.database.read() as connection:
            known = [row for row in snapshot_policies.enabled(connection) if row["server_id"] == server_id]
        for row in known:
            _look_at_clock(self._worker, row, moment)
        with self._worker.database.read() as connection:
            due = [row for row in snapshot_policies.due(connection, moment) if row["server_id"] == server_id]
        for row in due:
            take(self._worker, row, self._clock)
            self._wake()
        if retire(self._worker, server_id, self._pauses.setdefault(server_id, {}), moment):
            self._wake()


def _look_at_clock(worker: WorkerContext, row: SnapshotPolicyRow, moment: datetime) -> None:
    """A next run that is far later than the schedule says was recorded while the clock was ahead: nothing would be taken until
    then."""
    if row["next_run"] is None or row["next_run"] <= moment + CLOCK_SLACK:
        return
    try:
        expected = policy_requests.next_run(row, moment)
    except StillframeError:
        return  # reported where the run is taken
    if expected is None or row["next_run"] <= expected + CLOCK_SLACK:
        return
    LOG.warning("snapshot policy %s: its next run, %s, was set while the clock was ahead", row["id"], row["next_run"])
    with worker.database.write() as connection:
        again: SnapshotPolicyChanges = {"next_run": expected, "due_at": None, "trying_since": None}
        snapshot_policies.settle(connection, row["id"], row["next_run"], **again)


def set_id_of(policy_id: str, due_at: datetime) -> str:
    """Returns the id of the set that a policy's run at that time makes, however often the run is begun."""
    return str(uuid.uuid5(uuid.UUID(policy_id), due_at.isoformat()))


def take(worker: WorkerContext, row: SnapshotPolicyRow, clock: Clock) -> None:
    """Takes the run of a policy that is due, unless another worker has taken it, and records the result. Never raises
    StillframeError."""
    begun = clock()
    held = (begun + LEASE).replace(microsecond=0)
    with worker.database.write() as connection:
        if not snapshot_policies.claim(connection, row, begun, held):
            return
    due_at, since = row["due_at"] or row["next_run"], row["trying_since"] or begun
    assert due_at is not None  # a policy without a next run is not due
    context = _context(row)
    try:
        values = _made(_take(worker, context, row, due_at), begun)
    except StillframeError as error:
        waits = _may_pass(error) and clock() - since < _patience(worker, error)
        values = _waiting(error, due_at, clock() + RETRY) if waits else _missed(error, due_at)
        LOG.warning("snapshot policy %s: %s", row["id"], values["last_error"])
    except Exception as error:
        LOG.exception("snapshot policy %s", row["id"])
        values = _missed(StillframeError(f"an unexpected error ({type(error).__name__}); the service's log has more"), due_at)
    _record(worker, row, held, values, clock())


def _take(worker: WorkerContext, context: Context, row: SnapshotPolicyRow, due_at: datetime) -> str:
    set_id = set_id_of(row["id"], due_at)
    with worker.database.read() as connection:
        if operations.get(connection, set_id) is not None:  # begun by a worker that died before it could record that
            return set_id
    _refuse_if_merging(worker, row)
    wanted: dict[str, Any] = {
        "name": f"{(row['name'] or 'scheduled')[:230]}-{due_at:%Y%m%dT%H%MZ}",
        "description": f"taken by snapshot policy {row['id']}",
        "volumes": row["volumes"],
        "quiesce": row["quiesce"],
        "policy_id": row["id"],
        "set_id": set_id,
    }
    return assisted_snapshot_requests.create(worker, context, row["server_id"], wanted)


def _may_pass(error: StillframeError) -> bool:
    """Returns how long to wait after a refusal: a permanent one is reported at once; a server in the wrong state may be in the
    right one soon."""
    return error.may_retry or (error.status == 409 and not isinstance(error, StepFailed | HostCommandFailed))


def _patience(worker: WorkerContext, error: StillframeError) -> timedelta:
    """Returns how long a run waits for something that is busy and ends by itself."""
    return timedelta(seconds=worker.settings.compute.policy_wait_seconds) if isinstance(error, Busy) else PATIENCE


def _refuse_if_merging(worker: WorkerContext, row: SnapshotPolicyRow) -> None:
    """Waits while a volume's snapshot is being deleted: a set would end in error then; a run that waits is taken later."""
    attached = {entry["volume_id"] for entry in worker.storage.attachments_of(row["server_id"], row["project_id"])}
    wanted = attached if row["volumes"] == "all" else attached & set(row["volumes"])
    merging = sorted(wanted & worker.storage.being_deleted()) if wanted else []
    if merging:
        raise Busy(f"a snapshot of volume {merging[0]} is being deleted")


def _made(set_id: str, at: datetime) -> SnapshotPolicyChanges:
    return {"last_run": at, "last_set_id": set_id, "last_error": None}


def _waiting(error: StillframeError, due_at: datetime, again: datetime) -> SnapshotPolicyChanges:
    sentence = f"the run of {due_at.isoformat()}Z waits: {error.message}"
    return {"last_error": sentence, "next_run": again.replace(microsecond=0)}


def _missed(error: StillframeError, due_at: datetime) -> SnapshotPolicyChanges:
    return {"last_error": f"the run of {due_at.isoformat()}Z was missed: {error.message}"}


def _record(worker: WorkerContext, row: SnapshotPolicyRow, held: datetime, values: SnapshotPolicyChanges, at: datetime) -> None:
    """Records the result of a run in any case, and the next run only if nobody has changed the policy meanwhile."""
    again: SnapshotPolicyChanges
    if "next_run" in values:
        again = {"next_run": values.pop("next_run")}
    else:
        # The first run after now: runs that were missed are made up for once, not one by one.
        again = {"due_at": None, "trying_since": None, "next_run": None}
        try:
            again["next_run"] = policy_requests.next_run(row, at)
        except StillframeError as error:
            LOG.error("snapshot policy %s takes nothing more: %s", row["id"], error.message)
            values["last_error"] = f"there is no next run: {error.message}"
    with worker.database.write() as connection:
        snapshot_policies.note(connection, row["id"], **values)
        snapshot_policies.settle(connection, row["id"], held, **again)


def _context(row: SnapshotPolicyRow) -> Context:
    """The policy acts as whoever made it, as a member of the policy's project."""
    context = Context(row["user_id"], row["project_id"], ("member",), new_request_id())
    bind_log(context)
    return context


@dataclass(frozen=True)
class _Candidate:
    """A set that may be deleted, the policy that made it, and the sentence to log when a rule would have kept it."""

    policy: SnapshotPolicyRow
    taken: Taken
    note: str | None = None


def retire(worker: WorkerContext, server_id: str, pauses: Pauses, moment: datetime) -> bool:
    """Begins to delete one set of a server that its policy no longer keeps; returns whether it did. One at a time: the next one
    waits until this one is gone."""
    with worker.database.read() as connection:
        policies = [row for row in snapshot_policies.enabled(connection) if row["server_id"] == server_id]
        rows = assisted_snapshots.made_by_policies(connection, server_id)
        newest = assisted_snapshots.newest_of_server(connection, server_id)
        busy = operations.on_resource(connection, f"server:{server_id}") is not None
    for gone in pauses.keys() - {row["id"] for row in rows} - {server_id}:
        del pauses[gone]
    if any(row["status"] in ("creating", "deleting") for row in rows):
        return False
    candidates = _candidates(policies, rows)
    _forget_refusals(worker, policies, candidates)
    if busy:
        return False
    if not candidates and newest is not None and newest["warnings"] and worker.settings.compute.merge_oldest_at_soft_limit:
        candidates = _of_deep_chains(worker, (policies, rows), pauses, moment)
    for candidate in candidates:
        known = pauses.get(candidate.taken.id)
        if known is not None and known.lasts(moment):
            continue
        pauses[candidate.taken.id] = _longer(known, moment)
        if _delete(worker, candidate):
            return True
    return False


def _candidates(policies: list[SnapshotPolicyRow], rows: list[AssistedSnapshotRow]) -> list[_Candidate]:
    """Returns, oldest first, the sets that no rule keeps, and those whose deletion was begun before but did not succeed as a
    whole."""
    sets, found = [_taken(row) for row in rows], []
    half_gone = {row["id"] for row in rows if row["status"] == "error" and row["retired_at"] is not None}
    for policy in policies:
        try:
            zone = policy_requests.zone_of(policy)
        except StillframeError as error:
            LOG.error("snapshot policy %s deletes nothing: %s", policy["id"], error.message)
            continue
        going = retention.to_delete(policy_requests.rules_of(policy), policy["id"], sets, zone)
        going += [each for each in sets if each.id in half_gone and each.policy_id == policy["id"] and not each.labelled]
        found += [_Candidate(policy, each) for each in going]
    return sorted(found, key=lambda each: each.taken.number)


def _of_deep_chains(
    worker: WorkerContext, known: tuple[list[SnapshotPolicyRow], list[AssistedSnapshotRow]], pauses: Pauses, moment: datetime
) -> list[_Candidate]:
    """Returns the sets of policies that have files in a chain at the soft limit, oldest first."""
    policies, rows = {row["id"]: row for row in known[0]}, {row["id"]: row for row in known[1]}
    if not policies or not rows:
        return []
    server_id = next(iter(policies.values()))["server_id"]
    looked = pauses.get(server_id)
    if looked is not None and looked.lasts(moment):
        return []
    pauses[server_id] = Pause(moment + LOOK, LOOK)
    try:
        deep = chain_depth.deep_volumes(worker, server_id)
    except (StillframeError, OSError) as error:
        LOG.warning("the chains of server %s were not looked at: %s", server_id, error)
        return []
    found = []
    for each in retention.oldest_free(policies, map(_taken, rows.values())):
        held = {entry["volume_id"] for entry in rows[each.id]["volumes"]} & deep.keys()
        if held:
            depths = ", ".join(f"volume {volume_id} has {deep[volume_id]} files in its chain" for volume_id in sorted(held))
            note = f"set {each.id} was deleted although a rule keeps it: {depths} (merge_oldest_at_soft_limit)"
            found.append(_Candidate(policies[str(each.policy_id)], each, note))
    return found


def _taken(row: AssistedSnapshotRow) -> Taken:
    at = row["created_at"].replace(tzinfo=UTC)
    return Taken(row["id"], at, row["seq"], row["status"], row["policy_id"], row["metadata"])


def _longer(known: Pause | None, moment: datetime) -> Pause:
    length = min(known.length * 2, PAUSES[1]) if known else PAUSES[0]
    return Pause(moment + length, length)


def _delete(worker: WorkerContext, candidate: _Candidate) -> bool:
    policy, set_id = candidate.policy, candidate.taken.id
    refusal: str | None = None
    try:
        assisted_snapshot_deletions.delete(worker, _context(policy), policy["server_id"], set_id, policy["id"])
        LOG.info("snapshot policy %s deletes set %s", policy["id"], set_id)
    except StillframeError as error:
        refusal = f"set {set_id} was not deleted: {error.message}"
        LOG.warning("snapshot policy %s: %s", policy["id"], refusal)
    values: SnapshotPolicyChanges = {"retention_error": refusal}
    if refusal is None and candidate.note:
        LOG.warning("snapshot policy %s: %s", policy["id"], candidate.note)
        values["retention_note"] = candidate.note
    with worker.database.write() as connection:
        snapshot_policies.note(connection, policy["id"], **values)
    return refusal is None


def _forget_refusals(worker: WorkerContext, policies: list[SnapshotPolicyRow], candidates: list[_Candidate]) -> None:
    """Keeps the reason why a deletion was not possible only as long as there is something to delete."""
    waiting = {each.policy["id"] for each in candidates}
    for row in policies:
        if row["retention_error"] is not None and row["id"] not in waiting:
            with worker.database.write() as connection:
                snapshot_policies.note(connection, row["id"], retention_error=None)

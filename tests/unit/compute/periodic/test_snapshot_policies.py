"""The timer's work for snapshot policies, by a clock of the test: every run once, nothing deleted that should stay."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.libvirt import chain_depth
from stillframe.compute.periodic import snapshot_policies as policy_runs
from stillframe.compute.periodic.snapshot_policies import Scheduler
from stillframe.compute.requests import assisted_snapshot_deletions
from stillframe.compute.requests import assisted_snapshots as assisted_snapshot_requests
from stillframe.compute.worker.context import WorkerContext
from stillframe.context import Context
from stillframe.db import assisted_snapshots, snapshot_policies
from stillframe.db.engine import Database
from stillframe.errors import (
    BadRequest,
    Busy,
    ChainConflict,
    Conflict,
    HypervisorRefused,
    NotFound,
    ShareUnavailable,
    StillframeError,
)
from stillframe.journal import record
from stillframe.journal.typed import Intent
from tests.unit.builders import OTHER_VOLUME, SERVER, VOLUME, new_id
from tests.unit.compute import fakes

NOON = datetime(2026, 11, 24, 12)
POLICY = "8b8b8b8b-8888-4888-8888-888888888888"
OTHER_POLICY = "9c9c9c9c-9999-4999-8999-999999999999"


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


class Site:
    """A world whose snapshots and deletions are rows only, refused with what the test puts into ``refusal``."""

    def __init__(self, worker: WorkerContext) -> None:
        self.worker = worker
        self.at = NOON
        self.refusal: Exception | None = None
        self.refused_sets: dict[str, Exception] = {}
        self.asked: list[dict[str, Any]] = []
        self.gone: list[str] = []
        self.woken = 0
        self.meanwhile: Callable[[], None] = lambda: None

    def scheduler(self) -> Scheduler:
        return Scheduler(self.worker, self.wake, lambda: self.at)

    def wake(self) -> None:
        self.woken += 1

    def create(self, worker: WorkerContext, context: Context, server_id: str, wanted: dict[str, Any]) -> str:
        assert (context.user_id, context.project_id, context.roles) == ("maker", "demo", ("member",))
        self.asked.append(wanted)
        self.meanwhile()
        if self.refusal is not None:
            raise self.refusal
        self.add(wanted["set_id"], policy_id=wanted["policy_id"], server_id=server_id)
        return str(wanted["set_id"])

    def delete(
        self, worker: WorkerContext, context: Context, server_id: str, set_id: str, policy_id: str | None = None
    ) -> None:
        assert (context.project_id, policy_id is not None) == ("demo", True)
        if set_id in self.refused_sets:
            raise self.refused_sets[set_id]
        self.gone.append(set_id)
        self.change(set_id, status="deleting", retired_at=self.at)

    def add(self, set_id: str, at: datetime | None = None, **changes: Any) -> str:
        row: Any = {
            "id": set_id,
            "project_id": "demo",
            "user_id": "maker",
            "server_id": SERVER,
            "metadata": {},
            "status": "available",
            "progress": 100,
            "quiesce": "preferred",
            "volumes": [{"volume_id": VOLUME}],
            "excluded_disks": [],
            "policy_id": POLICY,
            "created_at": at or self.at,
            **changes,
        }
        with self.worker.database.write() as connection:
            assisted_snapshots.insert(connection, row)
            record.submit(connection, record.Request("compute", "assisted_snapshot", Intent(), [], [], "req-1", set_id))
        return set_id

    def change(self, set_id: str, **values: Any) -> None:
        with self.worker.database.write() as connection:
            assisted_snapshots.change(connection, set_id, **values)

    def end_deletions(self) -> None:
        with self.worker.database.write() as connection:
            for row in assisted_snapshots.made_by_policies(connection, SERVER):
                if row["status"] == "deleting":
                    assisted_snapshots.delete(connection, row["id"])

    def policy(self, policy_id: str = POLICY) -> Any:
        with self.worker.database.read() as connection:
            found = snapshot_policies.get(connection, policy_id, None)
        assert found is not None
        return found

    def add_policy(self, policy_id: str = POLICY, **changes: Any) -> None:
        row: Any = {
            "id": policy_id,
            "project_id": "demo",
            "user_id": "maker",
            "name": "hourly",
            "server_id": SERVER,
            "schedule": "0 * * * *",
            "timezone": "UTC",
            "quiesce": "required",
            "volumes": [VOLUME],
            "keep_last": 0,
            "keep_hourly": 0,
            "keep_daily": 0,
            "keep_weekly": 0,
            "enabled": True,
            "next_run": NOON,
            **changes,
        }
        with self.worker.database.write() as connection:
            snapshot_policies.insert(connection, row)

    def hold_server(self) -> None:
        with self.worker.database.write() as connection:
            record.submit(connection, record.Request("compute", "merge_volume", Intent(), [], [f"server:{SERVER}"], "req-1"))


@pytest.fixture
def site(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(fakes.worker(database, tmp_path, [], monkeypatch))
    monkeypatch.setattr(assisted_snapshot_requests, "create", made.create)
    monkeypatch.setattr(assisted_snapshot_deletions, "delete", made.delete)
    return made


# Runs


def test_a_run_is_taken_when_it_is_due_and_not_before(site: Site) -> None:
    site.add_policy()
    scheduler = site.scheduler()
    site.at = NOON - timedelta(seconds=1)
    scheduler.serve(SERVER)
    assert (site.asked, site.woken) == ([], 0)
    site.at = NOON + timedelta(seconds=4)
    scheduler.serve(SERVER)
    set_id = policy_runs.set_id_of(POLICY, NOON)
    assert site.asked == [
        {
            "name": "hourly-20261124T1200Z",
            "description": f"taken by snapshot policy {POLICY}",
            "volumes": [VOLUME],
            "quiesce": "required",
            "policy_id": POLICY,
            "set_id": set_id,
        }
    ]
    found = site.policy()
    assert (found["last_run"], found["last_set_id"], found["last_error"]) == (site.at, set_id, None)
    assert (found["next_run"], found["due_at"], found["trying_since"]) == (NOON + minutes(60), None, None)
    assert site.woken == 1
    scheduler.serve(SERVER)
    assert len(site.asked) == 1


def test_every_run_of_a_day_is_taken_once_whoever_looks(site: Site) -> None:
    site.add_policy()
    one, two = site.scheduler(), site.scheduler()
    for step in range(24 * 3):
        site.at = NOON + minutes(20 * step)
        (one if step % 3 else two).serve(SERVER)
        two.serve(SERVER)
    assert [each["name"][-5:-1] for each in site.asked] == [f"{hour % 24:02}00" for hour in range(12, 36)]
    assert len({each["set_id"] for each in site.asked}) == 24


def test_runs_missed_while_the_service_was_down_are_taken_once(site: Site) -> None:
    site.add_policy()
    site.at = NOON + minutes(3 * 24 * 60 + 7)
    scheduler = site.scheduler()
    scheduler.serve(SERVER)
    scheduler.serve(SERVER)
    assert [each["name"] for each in site.asked] == ["hourly-20261124T1200Z"]
    assert site.policy()["next_run"] == NOON + minutes(3 * 24 * 60 + 60)


@pytest.mark.parametrize("ahead", [timedelta(days=3650), timedelta(hours=12), timedelta(hours=2)])
@pytest.mark.parametrize("tried", [False, True])
def test_a_run_that_was_put_down_while_the_clock_was_ahead_is_not_waited_for(site: Site, ahead: timedelta, tried: bool) -> None:
    """A host that boots with a clock years ahead, or in another time zone, until it asks somebody for the time."""
    held: dict[str, Any] = {"due_at": NOON + ahead, "trying_since": NOON + ahead} if tried else {}
    site.add_policy(next_run=NOON + ahead + minutes(1), **held)
    site.add_policy(OTHER_POLICY, schedule="0 12 1 1 *", next_run=datetime(2027, 1, 1, 12))
    site.at = NOON + minutes(1)
    scheduler = site.scheduler()
    scheduler.serve(SERVER)
    found = site.policy()
    assert (found["next_run"], found["due_at"], found["trying_since"]) == (NOON + minutes(60), None, None)
    assert site.policy(OTHER_POLICY)["next_run"] == datetime(2027, 1, 1, 12), "a year is no mistake"
    site.at = NOON + minutes(61)
    scheduler.serve(SERVER)
    assert [each["name"] for each in site.asked] == ["hourly-20261124T1300Z"]


def test_two_workers_that_read_the_same_row_take_its_run_once(site: Site) -> None:
    site.add_policy()
    read = site.policy()
    policy_runs.take(site.worker, read, lambda: site.at)
    policy_runs.take(site.worker, read, lambda: site.at)
    assert len(site.asked) == 1


def test_a_run_whose_worker_died_before_it_could_record_it_is_not_taken_again(site: Site) -> None:
    site.add_policy()

    def die() -> None:
        site.add(policy_runs.set_id_of(POLICY, NOON))
        raise KeyboardInterrupt

    site.meanwhile = die
    with pytest.raises(KeyboardInterrupt):
        site.scheduler().serve(SERVER)
    site.meanwhile = lambda: None
    site.at = NOON + timedelta(seconds=30)
    site.scheduler().serve(SERVER)  # the lease of the dead one has not ended
    assert site.policy()["last_set_id"] is None
    site.at = NOON + timedelta(seconds=70)
    site.scheduler().serve(SERVER)
    assert len(site.asked) == 1
    found = site.policy()
    assert (found["last_set_id"], found["next_run"]) == (policy_runs.set_id_of(POLICY, NOON), NOON + minutes(60))


def test_a_run_whose_worker_died_before_anything_was_made_is_begun_again(site: Site) -> None:
    site.add_policy()
    site.meanwhile = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        site.scheduler().serve(SERVER)
    site.meanwhile = lambda: None
    site.at = NOON + timedelta(seconds=70)
    site.scheduler().serve(SERVER)
    assert [each["set_id"] for each in site.asked] == [policy_runs.set_id_of(POLICY, NOON)] * 2
    assert site.policy()["last_set_id"] == policy_runs.set_id_of(POLICY, NOON)


@pytest.mark.parametrize("volumes", [[VOLUME], "all"])
def test_a_run_waits_for_the_deletion_of_a_snapshot_of_its_volumes(site: Site, volumes: Any) -> None:
    site.add_policy(volumes=volumes)
    storage: Any = site.worker.storage
    storage.attachments, storage.deleting = [{"volume_id": VOLUME}, {"volume_id": OTHER_VOLUME}], {VOLUME}
    scheduler = site.scheduler()
    scheduler.serve(SERVER)
    assert site.asked == []
    assert f"a snapshot of volume {VOLUME} is being deleted" in site.policy()["last_error"]
    storage.deleting = {OTHER_VOLUME} if volumes == [VOLUME] else set()
    site.at = NOON + timedelta(seconds=25)
    scheduler.serve(SERVER)
    assert len(site.asked) == 1


@pytest.mark.parametrize("refusal", [Conflict("the server is busy"), ShareUnavailable("full"), ChainConflict("strange")])
def test_a_run_that_is_refused_for_now_waits_some_minutes_and_is_then_missed(site: Site, refusal: StillframeError) -> None:
    site.add_policy(next_run=NOON - minutes(60 * 24))  # the service was down: patience counts from the first try
    site.refusal = refusal
    scheduler = site.scheduler()
    scheduler.serve(SERVER)
    told = site.policy()
    assert told["last_error"] == f"the run of 2026-11-23T12:00:00Z waits: {refusal.message}"
    assert (told["next_run"], told["due_at"]) == (NOON + timedelta(seconds=20), NOON - minutes(60 * 24))
    for second in range(0, 299, 5):
        site.at = NOON + timedelta(seconds=second)
        scheduler.serve(SERVER)
    assert "waits" in site.policy()["last_error"]
    assert len(site.asked) == 15
    site.at = NOON + timedelta(seconds=301)
    scheduler.serve(SERVER)
    missed = site.policy()
    assert missed["last_error"] == f"the run of 2026-11-23T12:00:00Z was missed: {refusal.message}"
    assert (missed["next_run"], missed["due_at"], missed["trying_since"]) == (NOON + minutes(60), None, None)
    site.refusal, site.at = None, NOON + minutes(60)
    scheduler.serve(SERVER)
    assert (site.policy()["last_error"], site.policy()["last_run"]) == (None, site.at)


def test_a_run_waits_an_hour_for_a_server_that_is_busy(site: Site) -> None:
    site.add_policy()
    site.refusal = Busy("a merge runs")
    scheduler = site.scheduler()
    for minute in range(60):
        site.at = NOON + minutes(minute)
        scheduler.serve(SERVER)
        assert site.policy()["last_error"] == "the run of 2026-11-24T12:00:00Z waits: a merge runs"
    site.at = NOON + minutes(61)
    scheduler.serve(SERVER)
    assert site.policy()["last_error"] == "the run of 2026-11-24T12:00:00Z was missed: a merge runs"


def test_a_run_that_was_refused_for_now_is_the_same_run_when_it_goes_through(site: Site) -> None:
    site.add_policy()
    site.refusal = Conflict("busy")
    scheduler = site.scheduler()
    scheduler.serve(SERVER)
    site.refusal, site.at = None, NOON + timedelta(seconds=25)
    scheduler.serve(SERVER)
    assert site.policy()["last_set_id"] == policy_runs.set_id_of(POLICY, NOON)
    assert site.policy()["last_error"] is None


@pytest.mark.parametrize(
    "refusal",
    [NotFound("no such server"), BadRequest("not attached"), HypervisorRefused("libvirt says no"), RuntimeError("a bug")],
)
def test_a_run_that_cannot_succeed_is_missed_at_once(site: Site, refusal: Exception) -> None:
    site.add_policy()
    site.refusal = refusal
    site.scheduler().serve(SERVER)
    found = site.policy()
    assert found["last_error"].startswith("the run of 2026-11-24T12:00:00Z was missed: ")
    assert "a bug" not in found["last_error"]
    assert (found["next_run"], found["last_run"], found["last_set_id"]) == (NOON + minutes(60), None, None)


def test_a_policy_that_was_changed_while_its_run_was_taken_keeps_its_new_time(site: Site) -> None:
    site.add_policy()
    tomorrow = NOON + minutes(24 * 60)

    def change() -> None:
        with site.worker.database.write() as connection:
            snapshot_policies.change(connection, POLICY, next_run=tomorrow, due_at=None, trying_since=None)

    site.meanwhile = change
    site.scheduler().serve(SERVER)
    found = site.policy()
    assert (found["next_run"], found["last_set_id"]) == (tomorrow, policy_runs.set_id_of(POLICY, NOON))


def test_a_policy_that_was_deleted_while_its_run_was_taken_stays_deleted(site: Site) -> None:
    site.add_policy()

    def delete() -> None:
        with site.worker.database.write() as connection:
            snapshot_policies.delete(connection, POLICY)

    site.meanwhile = delete
    site.scheduler().serve(SERVER)
    with site.worker.database.read() as connection:
        assert snapshot_policies.get(connection, POLICY, None) is None


def test_a_policy_whose_time_zone_vanished_from_the_host_says_so(site: Site) -> None:
    site.add_policy(timezone="Mars/Olympus", keep_last=1)
    site.scheduler().serve(SERVER)
    found = site.policy()
    assert (found["next_run"], found["last_set_id"]) == (None, policy_runs.set_id_of(POLICY, NOON))
    assert "Mars/Olympus" in found["last_error"]


def test_a_policy_without_a_name_and_one_with_a_long_one_name_their_sets(site: Site) -> None:
    site.add_policy(name=None)
    site.add_policy(OTHER_POLICY, name="n" * 255, next_run=NOON + minutes(1))
    site.at = NOON + minutes(1)
    site.scheduler().serve(SERVER)
    assert [each["name"] for each in site.asked] == ["scheduled-20261124T1200Z", "n" * 230 + "-20261124T1201Z"]


# Retention


def history(site: Site, count: int = 5, **changes: Any) -> list[str]:
    """One available set for each of the last hours, oldest first."""
    return [site.add(new_id(), NOON - minutes(60 * (count - number)), **changes) for number in range(count)]


def serve_until_quiet(site: Site, rounds: int = 20) -> None:
    scheduler = site.scheduler()
    for _ in range(rounds):
        scheduler.serve(SERVER)
        site.end_deletions()
        site.at += timedelta(seconds=10)


def test_what_no_rule_keeps_goes_oldest_first_and_one_at_a_time(site: Site) -> None:
    site.add_policy(schedule=None, next_run=None, keep_last=2)
    sets = history(site)
    scheduler = site.scheduler()
    scheduler.serve(SERVER)
    scheduler.serve(SERVER)
    assert (site.gone, site.woken) == (sets[:1], 1)
    serve_until_quiet(site)
    assert site.gone == sets[:3]
    assert site.policy()["retention_error"] is None


def test_labelled_foreign_and_failed_sets_stay(site: Site) -> None:
    site.add_policy(schedule=None, next_run=None, keep_last=1)
    sets = history(site)
    site.change(sets[0], metadata={"keep": "yes"})
    site.change(sets[1], policy_id=None)
    site.change(sets[2], policy_id=OTHER_POLICY)
    site.change(sets[3], status="error")
    serve_until_quiet(site)
    assert site.gone == []


def test_sets_of_another_server_stay(site: Site) -> None:
    site.add_policy(schedule=None, next_run=None, keep_last=1)
    history(site, server_id=VOLUME)
    serve_until_quiet(site)
    assert site.gone == []


def test_a_policy_that_is_switched_off_deletes_nothing(site: Site) -> None:
    site.add_policy(enabled=False, keep_last=1)
    history(site)
    serve_until_quiet(site)
    assert site.gone == []


@pytest.mark.parametrize("status", ["creating", "deleting"])
def test_nothing_goes_while_another_set_of_the_server_is_made_or_deleted(site: Site, status: str) -> None:
    site.add_policy(schedule=None, next_run=None, keep_last=1)
    history(site)
    site.add(new_id(), status=status)
    site.scheduler().serve(SERVER)
    assert site.gone == []


def test_nothing_goes_while_an_operation_holds_the_server(site: Site) -> None:
    site.add_policy(schedule=None, next_run=None, keep_last=1)
    history(site)
    site.hold_server()
    site.scheduler().serve(SERVER)
    assert (site.gone, site.policy()["retention_error"]) == ([], None)


def test_a_refused_deletion_is_told_and_tried_again_after_a_pause_that_grows(site: Site) -> None:
    site.add_policy(schedule=None, next_run=None, keep_last=1)
    sets = history(site, 2)
    site.refused_sets[sets[0]] = Conflict("a clone reads it")
    scheduler = site.scheduler()
    tries = []
    for minute in range(0, 4 * 60):
        site.at = NOON + minutes(minute)
        site.refused_sets[sets[0]] = Conflict(f"a clone reads it ({minute})")
        scheduler.serve(SERVER)
        told = site.policy()["retention_error"]
        assert told is not None and told.startswith(f"set {sets[0]} was not deleted: a clone reads it (")
        if told.endswith(f"({minute})"):
            tries.append(minute)
    assert tries == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    site.refused_sets, site.at = {}, site.at + minutes(61)
    scheduler.serve(SERVER)
    assert (site.gone, site.policy()["retention_error"]) == (sets[:1], None)


def test_a_pause_that_began_before_the_clock_was_set_back_is_over(site: Site) -> None:
    site.add_policy(schedule=None, next_run=None, keep_last=1)
    sets = history(site, 2)
    site.refused_sets[sets[0]] = Conflict("a clone reads it")
    scheduler = site.scheduler()
    scheduler.serve(SERVER)
    site.refused_sets, site.at = {}, site.at - timedelta(hours=12)
    scheduler.serve(SERVER)
    assert site.gone == sets[:1]


def test_one_refused_deletion_does_not_keep_the_others(site: Site) -> None:
    site.add_policy(schedule=None, next_run=None, keep_last=1)
    sets = history(site)
    site.refused_sets[sets[0]] = Conflict("a clone reads it")
    serve_until_quiet(site)
    assert site.gone == sets[1:4]


def test_what_was_in_the_way_is_forgotten_once_there_is_nothing_to_delete(site: Site) -> None:
    site.add_policy(schedule=None, next_run=None, keep_last=1)
    sets = history(site, 2)
    site.refused_sets[sets[0]] = Conflict("a clone reads it")
    site.scheduler().serve(SERVER)
    assert site.policy()["retention_error"] is not None
    site.change(sets[0], metadata={"keep": "true"})
    site.scheduler().serve(SERVER)
    assert site.policy()["retention_error"] is None


def test_a_deletion_that_failed_half_way_is_begun_again_after_a_pause(site: Site) -> None:
    site.add_policy(schedule=None, next_run=None, keep_last=1)
    sets = history(site, 2)
    scheduler = site.scheduler()
    scheduler.serve(SERVER)
    site.change(sets[0], status="error", fault="not all snapshots were deleted")
    scheduler.serve(SERVER)
    assert site.gone == sets[:1]
    site.at += minutes(1)
    scheduler.serve(SERVER)
    assert site.gone == [sets[0], sets[0]]
    site.change(sets[0], status="error", metadata={"keep": "true"})
    site.at += minutes(120)
    scheduler.serve(SERVER)
    assert site.gone == [sets[0], sets[0]]


# Deep chains


@pytest.fixture
def deep(site: Site, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What ``depth`` finds; the option is on."""
    found: dict[str, int] = {VOLUME: 32}
    options = site.worker.settings.compute
    settings = replace(site.worker.settings, compute=_With(options, merge_oldest_at_soft_limit=True))
    site.worker = replace(site.worker, settings=settings)
    monkeypatch.setattr(chain_depth, "deep_volumes", lambda _worker, _server: found)
    return found


class _With:
    """Options with some changed."""

    def __init__(self, options: Any, **changes: Any) -> None:
        self._options, self._changes = options, changes

    def __getattr__(self, name: str) -> Any:
        return self._changes[name] if name in self._changes else getattr(self._options, name)


def test_at_the_soft_limit_the_oldest_set_that_is_free_goes(site: Site, deep: dict[str, int]) -> None:
    site.add_policy(schedule=None, next_run=None, keep_last=60)
    sets = history(site)
    site.change(sets[0], metadata={"keep": "true"})
    site.change(sets[1], policy_id=None)
    site.change(sets[2], volumes=[{"volume_id": OTHER_VOLUME}])
    site.change(sets[4], warnings=["deep"])
    site.scheduler().serve(SERVER)
    assert site.gone == [sets[3]]
    assert site.policy()["retention_note"] == (
        f"set {sets[3]} was deleted although a rule keeps it: volume {VOLUME} has 32 files in its chain"
        " (merge_oldest_at_soft_limit)"
    )


def test_chains_are_looked_at_only_when_the_newest_set_warned_and_not_each_time(
    site: Site, deep: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add_policy(schedule=None, next_run=None, keep_last=60)
    sets = history(site)
    looks: list[datetime] = []

    def look(_worker: WorkerContext, _server: str) -> dict[str, int]:
        looks.append(site.at)
        return {}

    monkeypatch.setattr(chain_depth, "deep_volumes", look)
    scheduler = site.scheduler()
    scheduler.serve(SERVER)
    assert looks == []
    site.change(sets[4], warnings=["deep"])
    for second in range(0, 130, 10):
        site.at = NOON + timedelta(seconds=second)
        scheduler.serve(SERVER)
    assert looks == [NOON, NOON + minutes(1), NOON + minutes(2)]
    assert site.gone == []


def test_what_the_rules_let_go_goes_before_a_deep_chain_takes_what_they_keep(site: Site, deep: dict[str, int]) -> None:
    site.add_policy(schedule=None, next_run=None, keep_last=4)
    sets = history(site)
    site.change(sets[4], warnings=["deep"])
    site.scheduler().serve(SERVER)
    assert (site.gone, site.policy()["retention_note"]) == (sets[:1], None)


@pytest.mark.parametrize("error", [NotFound("gone"), ShareUnavailable("away"), FileNotFoundError("volume-x")])
def test_chains_that_cannot_be_read_take_nothing(
    site: Site, deep: dict[str, int], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    site.add_policy(schedule=None, next_run=None, keep_last=60)
    site.change(history(site)[4], warnings=["deep"])

    def look(_worker: WorkerContext, _server: str) -> dict[str, int]:
        raise error

    monkeypatch.setattr(chain_depth, "deep_volumes", look)
    site.scheduler().serve(SERVER)
    assert site.gone == []


def test_unless_the_operator_wants_it_nothing_goes_for_a_deep_chain(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_depth, "deep_volumes", lambda _worker, _server: {VOLUME: 60})
    site.add_policy(schedule=None, next_run=None, keep_last=60)
    site.change(history(site)[4], warnings=["deep"])
    site.scheduler().serve(SERVER)
    assert site.gone == []


# The timer


def test_the_timer_never_waits_and_one_server_is_served_by_one_thread(site: Site) -> None:
    site.add_policy()
    site.add_policy(OTHER_POLICY, server_id=VOLUME)
    begun, go_on = threading.Semaphore(0), threading.Event()

    def hang() -> None:
        begun.release()
        go_on.wait(30)

    site.meanwhile = hang
    scheduler = site.scheduler()
    scheduler.look()
    assert begun.acquire(timeout=30) and begun.acquire(timeout=30)  # both servers at once
    scheduler.look()  # returns although both hang
    go_on.set()
    scheduler.close()
    assert sorted(each["policy_id"] for each in site.asked) == [POLICY, OTHER_POLICY]
    assert {site.policy(each)["next_run"] for each in (POLICY, OTHER_POLICY)} == {NOON + minutes(60)}


def test_after_the_end_nothing_is_begun(site: Site) -> None:
    site.add_policy()
    scheduler = site.scheduler()
    scheduler.close()
    scheduler.look()
    assert site.asked == []


def test_an_error_of_the_program_at_one_look_is_not_the_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add_policy()
    scheduler, real = site.scheduler(), policy_runs.take

    def broken(*_arguments: Any) -> None:
        raise RuntimeError("a bug")

    for take in (broken, real):
        monkeypatch.setattr(policy_runs, "take", take)
        scheduler.look()
        wait = threading.Event()
        for _ in range(3000):
            if not scheduler._serving:
                break
            wait.wait(0.01)
    scheduler.close()
    assert len(site.asked) == 1

"""The two workers: what an API may call on them, how they begin and end. Only here are libvirt and the share needed."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from stillframe.compute import kinds as compute_kinds
from stillframe.compute.manager import Manager as ComputeManager
from stillframe.compute.operations import delete_set
from stillframe.compute.periodic import reconcile
from stillframe.compute.periodic import snapshot_policies as policy_runs
from stillframe.compute.worker import context as compute_world
from stillframe.config import Settings
from stillframe.db import services
from stillframe.db.engine import Database
from stillframe.host import private_libvirt
from stillframe.journal import pruning
from stillframe.journal.operation import Operation
from stillframe.journal.record import Journal, this_process
from stillframe.journal.slots import Lanes
from stillframe.journal.worker import Worker
from stillframe.rpc.bus import Methods
from stillframe.volumes import kinds as volumes_kinds
from stillframe.volumes import periodic
from stillframe.volumes.manager import Manager as VolumesManager
from stillframe.volumes.worker import context as volumes_world

MERGE = "merge_volume"
SWEEP_EVERY = 60  # looks of the timer, ten seconds each


@dataclass(frozen=True)
class WorkerPart:
    """One service's worker: what an API may call, and how it begins and ends."""

    methods: Methods
    start: Callable[[], None]
    stop: Callable[[], None]


def volumes_worker(settings: Settings, database: Database) -> WorkerPart:
    world = volumes_world.open_context(settings, database)
    for pool in world.backends.pools:
        pool.begin()
    rounds = itertools.count()
    journal = Journal(database, "volumes", this_process(settings.host), settings.lease_seconds)

    def on_timer() -> None:
        _beat(settings, database, "stillframe-volumes")
        periodic.look(world)
        pruning.look(database, settings.finished_operations_days)
        if next(rounds) % SWEEP_EVERY == 0:
            periodic.sweep_backups(world)

    lanes = Lanes(settings.workers, of=world.lane, places=volumes_kinds.places)
    worker = Worker(journal, volumes_kinds.KINDS, world, lanes, on_timer)

    def stop() -> None:
        world.stopping.set()
        worker.stop()

    return WorkerPart(VolumesManager(world, worker.wake).methods(), worker.start, stop)


def compute_worker(settings: Settings, database: Database) -> WorkerPart:
    world = compute_world.open_context(settings, database)
    journal = Journal(database, "compute", this_process(settings.host), settings.lease_seconds)
    looked = reconcile.Reconciler(world)

    def on_timer() -> None:
        _beat(settings, database, "stillframe-compute")
        world.guard.start()
        scheduler.look()
        looked.look()
        delete_set.look(world, worker.tell)

    worker = Worker(
        journal,
        compute_kinds.KINDS,
        world,
        _compute_lanes(settings),
        on_timer,
    )
    scheduler = policy_runs.Scheduler(world, worker.wake)

    def stop() -> None:
        world.stopping.set()
        scheduler.close()
        worker.stop()
        world.guard.close()
        world.hypervisor.close()
        if not settings.compute.libvirt_uri:
            private_libvirt.stop(settings.state_dir / "libvirt")

    return WorkerPart(ComputeManager(world, worker.wake).methods(), worker.start, stop)


def _compute_lanes(settings: Settings) -> Lanes:
    """Merges take hours where they must; those of each share have threads of their own, as many as may run at once there."""
    options = settings.compute
    limits, together = {MERGE: options.max_merges_per_share}, {MERGE: options.max_merges}
    return Lanes(settings.workers, limits, _compute_lane, together, compute_kinds.places)


def _compute_lane(operation: Operation) -> str:
    return f"{MERGE} {operation.intent['directory']}" if operation.kind == MERGE else ""


def _beat(settings: Settings, database: Database, binary: str) -> None:
    with database.write() as connection:
        services.beat(connection, binary, settings.host)


MAKE = {"volumes": volumes_worker, "compute": compute_worker}

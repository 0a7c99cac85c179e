"""The two workers: what an API may call on them, and how they start and end. Only here are libvirt and the share needed."""

import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from stillframe.compute import kinds as compute_kinds
from stillframe.compute.manager import Manager as ComputeManager
from stillframe.compute.operations import delete_set
from stillframe.compute.periodic import reconcile
from stillframe.compute.periodic import snapshot_policies as policy_runs
from stillframe.compute.worker import context as compute_context
from stillframe.config import Settings
from stillframe.db import services
from stillframe.db.engine import Database
from stillframe.errors import HypervisorUnavailable
from stillframe.host import private_libvirt
from stillframe.journal import pruning
from stillframe.journal.about import about
from stillframe.journal.operation import Operation
from stillframe.journal.record import Journal, this_process
from stillframe.journal.slots import Lanes
from stillframe.journal.worker import Worker
from stillframe.rpc.bus import Methods
from stillframe.volumes import kinds as volumes_kinds
from stillframe.volumes import periodic
from stillframe.volumes.manager import Manager as VolumesManager
from stillframe.volumes.worker import context as volumes_context

MERGE = "merge_volume"
SWEEP_EVERY = 60  # turns of the timer, ten seconds each


@dataclass(frozen=True)
class WorkerPart:
    """One service's worker: what an API may call, and how the worker starts and ends."""

    methods: Methods
    start: Callable[[], None]
    stop: Callable[[], None]


def volumes_worker(settings: Settings, database: Database) -> WorkerPart:
    context = volumes_context.open_context(settings, database)
    for pool in context.backends.pools:
        pool.begin()
    rounds = itertools.count()
    journal = Journal(database, "volumes", this_process(settings.host), settings.lease_seconds, volumes_kinds.KINDS)

    def on_timer() -> None:
        _beat(settings, database, "stillframe-volumes")
        periodic.look(context)
        pruning.look(database, settings.finished_operations_days)
        if next(rounds) % SWEEP_EVERY == 0:
            periodic.sweep_backups(context)

    lanes = Lanes(settings.workers, of=context.lane, places=volumes_kinds.places)
    worker = Worker(journal, volumes_kinds.KINDS, context, lanes, on_timer)

    def stop() -> None:
        context.stopping.set()
        worker.stop()

    return WorkerPart(VolumesManager(context, worker.wake).methods(), worker.start, stop)


def compute_worker(settings: Settings, database: Database) -> WorkerPart:
    context = compute_context.open_context(settings, database)
    journal = Journal(database, "compute", this_process(settings.host), settings.lease_seconds, compute_kinds.KINDS)
    looked = reconcile.Reconciler(context)

    def on_timer() -> None:
        _beat(settings, database, "stillframe-compute")
        context.guard.start()
        scheduler.look()
        looked.look()
        delete_set.look(context, worker.tell)

    worker = Worker(
        journal,
        compute_kinds.KINDS,
        context,
        _compute_lanes(settings),
        on_timer,
    )
    scheduler = policy_runs.Scheduler(context, worker.wake)

    def stop() -> None:
        context.stopping.set()
        scheduler.close()
        worker.stop()
        context.guard.close()
        context.hypervisor.close()
        if not settings.compute.libvirt_uri:
            with suppress(HypervisorUnavailable):  # a watchdog that must thaw a guest restarts the daemon, and may keep it
                private_libvirt.stop(settings.state_dir / "libvirt")

    return WorkerPart(ComputeManager(context, worker.wake).methods(), worker.start, stop)


def _compute_lanes(settings: Settings) -> Lanes:
    """Merges may take hours. Those of each share have their own threads, as many as may run at once there."""
    options = settings.compute
    limits, together = {MERGE: options.max_merges_per_share}, {MERGE: options.max_merges}
    return Lanes(settings.workers, limits, _compute_lane, together, compute_kinds.places)


def _compute_lane(operation: Operation) -> str:
    return f"{MERGE} {about(operation.intent).directory}" if operation.kind == MERGE else ""


def _beat(settings: Settings, database: Database, binary: str) -> None:
    with database.write() as connection:
        services.beat(connection, binary, settings.host)


MAKE = {"volumes": volumes_worker, "compute": compute_worker}

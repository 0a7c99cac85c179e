"""The parts of Stillframe and how they are put together: two workers, two APIs, in one process or apart."""

import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillframe.compute import operations as compute_operations
from stillframe.compute import policies as compute_policies
from stillframe.compute import reconcile
from stillframe.compute import world as compute_world
from stillframe.compute.api import routes as compute_routes
from stillframe.compute.manager import Manager as ComputeManager
from stillframe.config import Settings
from stillframe.db import services
from stillframe.db.engine import Database
from stillframe.host import private_libvirt
from stillframe.journal.record import Journal, this_process
from stillframe.journal.worker import Worker
from stillframe.main import state
from stillframe.rpc.bus import Bus, InProcess, Methods, SocketBus, SocketServer
from stillframe.volumes import operations as volumes_operations
from stillframe.volumes import policies as volumes_policies
from stillframe.volumes import world as volumes_world
from stillframe.volumes.api import routes as volumes_routes
from stillframe.volumes.manager import Manager as VolumesManager
from stillframe.web import application, observe
from stillframe.web.auth import BasicAuth
from stillframe.web.policy import Enforcer
from stillframe.web.route import Door
from stillframe.web.server import Server

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerPart:
    """One service's worker: what an API may call, and how it begins and ends."""

    methods: Methods
    start: Callable[[], None]
    stop: Callable[[], None]


def volumes_worker(settings: Settings, database: Database) -> WorkerPart:
    world = volumes_world.open_world(settings, database)
    journal = Journal(database, "volumes", this_process(settings.host), settings.lease_seconds)

    def on_timer() -> None:
        _beat(settings, database, "stillframe-volumes")

    worker = Worker(journal, volumes_operations.KINDS, world, settings.workers, on_timer)
    return WorkerPart(VolumesManager(world, worker.wake).methods(), worker.start, worker.stop)


def compute_worker(settings: Settings, database: Database) -> WorkerPart:
    world = compute_world.open_world(settings, database)
    journal = Journal(database, "compute", this_process(settings.host), settings.lease_seconds)
    looked = reconcile.Reconciler(world)

    def on_timer() -> None:
        _beat(settings, database, "stillframe-compute")
        world.guard.start()
        looked.look()

    worker = Worker(journal, compute_operations.KINDS, world, settings.workers, on_timer)

    def stop() -> None:
        worker.stop()
        world.guard.close()
        world.hypervisor.close()
        if not settings.compute.libvirt_uri:
            private_libvirt.stop(settings.state_dir / "libvirt")

    return WorkerPart(ComputeManager(world, worker.wake).methods(), worker.start, stop)


def _beat(settings: Settings, database: Database, binary: str) -> None:
    with database.write() as connection:
        services.beat(connection, binary, settings.host)


def api(settings: Settings, database: Database, service: str, bus: Bus) -> Server:
    """Makes the HTTP server of "volumes" or "compute", bound but not started."""
    table, rules, options = {
        "volumes": (volumes_routes.SERVICE, volumes_policies.RULES, settings.volumes),
        "compute": (compute_routes.SERVICE, compute_policies.RULES, settings.compute),
    }[service]
    policy_file = settings.state_dir / "policy.yaml"
    enforcer = Enforcer(rules, str(policy_file) if policy_file.exists() else None)
    pages = {
        "/healthcheck": observe.health_page(database, f"stillframe-{service}"),
        "/metrics": observe.metrics_page(database),
    }
    made = application.make(table, Door(database, bus, settings), BasicAuth(settings.users_file), enforcer, pages)
    return Server(made, options.listen, options.port)


def serve(settings: Settings, ready: Callable[[str, str], None]) -> None:
    """Runs everything in this process until SIGTERM or SIGINT."""
    locks = state.Locks(_made(settings), state.PARTS)
    database = state.prepare(settings)
    # The workers are made after the APIs are bound, because the services learn each other's ports first.
    methods: dict[str, dict[str, Callable[..., Any]]] = {"volumes": {}, "compute": {}}
    servers = {name: api(settings, database, name, InProcess(methods[name])) for name in methods}
    volumes_url = f"http://{settings.volumes.listen}:{servers['volumes'].port}/v3"
    compute_url = f"http://{settings.compute.listen}:{servers['compute'].port}/v2.1"
    state.announce(settings, volumes_url, compute_url)
    workers = {"volumes": volumes_worker(settings, database), "compute": compute_worker(settings, database)}
    for name, worker in workers.items():
        methods[name].update(worker.methods)
    for server in servers.values():
        server.start()
    for worker in workers.values():
        worker.start()
    ready(volumes_url, compute_url)
    wait_for_signal()
    for server in servers.values():
        server.stop()
    for worker in workers.values():
        worker.stop()
    database.close()
    del locks


def serve_api(settings: Settings, service: str, ready: Callable[[str], None]) -> None:
    """Runs one REST service; its worker answers over a Unix socket in the state directory."""
    locks = state.Locks(_made(settings), (f"api-{service}",))
    database = state.prepare(settings)
    state.announce(settings, *state.configured_urls(settings))
    bus = SocketBus(service, settings.state_dir / f"{service}.sock")
    server = api(settings, database, service, bus)
    server.start()
    ready(f"port {server.port}")
    wait_for_signal()
    server.stop()
    del locks


def serve_worker(settings: Settings, service: str, ready: Callable[[str], None]) -> None:
    """Runs one worker."""
    locks = state.Locks(_made(settings), (f"worker-{service}",))
    database = state.prepare(settings)
    state.announce(settings, *state.configured_urls(settings))
    worker = {"volumes": volumes_worker, "compute": compute_worker}[service](settings, database)
    path = settings.state_dir / f"{service}.sock"
    server = SocketServer(path, worker.methods)
    worker.start()
    ready(f"socket {path}")
    wait_for_signal()
    server.close()
    worker.stop()
    del locks


def _made(settings: Settings) -> Path:
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return settings.state_dir


def wait_for_signal() -> None:
    """Returns after SIGTERM or SIGINT."""
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: told.set())
    while not told.is_set():
        told.wait(3600)
    LOG.info("stopping")

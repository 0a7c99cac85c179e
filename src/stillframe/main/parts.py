"""The parts of Stillframe put together: everything in one process, or one part alone over the same state directory."""

import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from stillframe.config import Settings
from stillframe.db.engine import Database
from stillframe.errors import StillframeError
from stillframe.main import apis, state
from stillframe.main.schema_watch import watching
from stillframe.rpc.bus import Bus, InProcess, SocketBus, SocketServer

LOG = logging.getLogger(__name__)
# In one process a thread that comes back from the database or the disk waits for the interpreter behind one that computes:
# five milliseconds each time unless told otherwise, and often while others wait for its transaction.
SWITCH_SECONDS = 0.001
OTHER_FILES = 1024  # the database's, libvirt's, those of files at work


def serve(settings: Settings, ready: Callable[[str, str], None]) -> None:
    """Runs everything in this process until SIGTERM or SIGINT."""
    from stillframe.main import workers

    stop = Stop()
    sys.setswitchinterval(SWITCH_SECONDS)
    _allow_connections(settings)
    with ExitStack() as running:
        locks = state.Locks(state.secure(settings), state.PARTS)
        database = state.prepare(settings)
        running.callback(database.close)
        running.enter_context(watching(database, stop))
        # The workers are made after the APIs are bound, because the services learn each other's ports first.
        methods: dict[str, dict[str, Callable[..., Any]]] = {"volumes": {}, "compute": {}}
        servers = {name: _bound(running, settings, database, name, InProcess(methods[name])) for name in methods}
        volumes_url = f"http://{settings.volumes.listen}:{servers['volumes'].port}/v3"
        compute_url = f"http://{settings.compute.listen}:{servers['compute'].port}/v2.1"
        state.announce(settings, {"volume": volumes_url, "compute": compute_url})
        made = {name: workers.MAKE[name](settings.of(name), database) for name in methods}
        for name, worker in made.items():
            methods[name].update(worker.methods)
        for server in servers.values():
            server.start()
        for worker in made.values():
            worker.start()
            running.callback(worker.stop)
        ready(volumes_url, compute_url)
        stop.wait()
    del locks


def _allow_connections(settings: Settings) -> None:
    """Raises this process's soft limit of open files to what its connections may need, as far as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * settings.max_connections + OTHER_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        LOG.warning(
            "this process may open %d files, but %d connections of two services need %d: raise its limit (LimitNOFILE=)"
            " or lower max_connections",
            allowed,
            settings.max_connections,
            wanted,
        )


def _bound(running: ExitStack, settings: Settings, database: Database, service: str, bus: Bus) -> apis.Api:
    """Binds a REST service's doors; whatever happens afterwards, its threads are stopped."""
    server = apis.api(settings, database, service, bus)
    running.callback(server.stop)
    return server


def serve_api(settings: Settings, service: str, ready: Callable[[str], None]) -> None:
    """Runs one REST service; its worker answers over a Unix socket in the state directory."""
    stop = Stop()
    _allow_connections(settings)
    with ExitStack() as running:
        locks = state.Locks(state.secure(settings), (f"api-{service}",))
        database = state.prepare(settings, alone=False)
        running.callback(database.close)
        running.enter_context(watching(database, stop))
        state.announce(settings, state.configured_url(settings, service))
        bus = SocketBus(service, settings.state_dir / f"{service}.sock")
        server = _bound(running, settings, database, service, bus)
        server.start()
        ready(f"port {server.port}")
        stop.wait()
    del locks


def serve_worker(settings: Settings, service: str, ready: Callable[[str], None]) -> None:
    """Runs one worker."""
    from stillframe.main import workers

    stop = Stop()
    with ExitStack() as running:
        locks = state.Locks(state.secure(settings), (f"worker-{service}",))
        database = state.prepare(settings, alone=False)
        running.callback(database.close)
        running.enter_context(watching(database, stop))
        state.announce(settings, state.configured_url(settings, service))
        worker = workers.MAKE[service](settings.of(service), database)
        path = settings.state_dir / f"{service}.sock"
        server = SocketServer(path, worker.methods)
        worker.start()
        running.callback(worker.stop)
        running.callback(server.close)
        ready(f"socket {path}")
        stop.wait()
    del locks


class Stop:
    """Takes SIGTERM and SIGINT from the moment it is made; one that comes before everything has started is not lost.

    The interpreter itself writes into a pipe, whatever its threads do. A handler of ours would run when the main thread comes
    back to Python: a signal that another thread was given, or that came just before the main thread began to read, would
    wait for the next one (CPython 3.11, signalmodule.c).
    """

    def __init__(self) -> None:
        self._told, self._tell = os.pipe()
        self._why: StillframeError | None = None
        os.set_blocking(self._tell, False)
        signal.set_wakeup_fd(self._tell, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: None)

    def wait(self) -> None:
        """Returns when one of the signals has come. Raises what ``because`` was told."""
        os.read(self._told, 1)
        if self._why is not None:
            raise self._why
        LOG.info("stopping")

    def because(self, error: StillframeError) -> None:
        """Ends the wait as a signal does, with an error."""
        self._why = error
        os.write(self._tell, b"\0")

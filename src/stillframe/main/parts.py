"""Puts the parts of Stillframe together: everything in one process, or one part alone over the same state directory."""

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
from stillframe.main import apis, endpoints, state
from stillframe.main.schema_watch import watching
from stillframe.rpc.bus import Bus, InProcess, SocketBus, SocketServer
from stillframe.web.server import MOST_NEWCOMERS

LOG = logging.getLogger(__name__)
# In one process a thread that returns from the database or the disk waits for the interpreter behind one that computes:
# five milliseconds each time unless told otherwise, and often while others wait for its transaction.
SWITCH_SECONDS = 0.001
OTHER_FILES = 1024  # files of the database, of libvirt and of running work


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
        # The workers are made after the APIs are bound, because the services must first learn each other's ports.
        methods: dict[str, dict[str, Callable[..., Any]]] = {"volumes": {}, "compute": {}}
        servers = {name: _bound(running, settings, database, name, InProcess(methods[name])) for name in methods}
        volumes_url, compute_url = (endpoints.url(settings, name, servers[name].port) for name in ("volumes", "compute"))
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
        stop.wait(*(server.read_again for server in servers.values()))
    del locks


def _allow_connections(settings: Settings) -> None:
    """Raises this process's soft limit of open files to what its connections may need, as far as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * (settings.max_connections + MOST_NEWCOMERS) + OTHER_FILES
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
    """Binds a REST service's sockets; whatever happens afterwards, its threads are stopped."""
    server = apis.api(settings, database, service, bus)
    running.callback(server.stop)
    return server


def serve_api(settings: Settings, service: str, ready: Callable[[str], None]) -> None:
    """Runs one REST service; its worker answers over a Unix socket in the state directory."""
    stop = Stop()
    sys.setswitchinterval(SWITCH_SECONDS)
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
        stop.wait(server.read_again)
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
    """Takes SIGTERM and SIGINT from the moment it is made, so a signal that comes before everything has started is not lost.

    SIGHUP means to read the certificates again, and ends nothing. In a terminal, where it means that the terminal is gone, it
    is not handled.

    The interpreter itself writes into a pipe, whatever its threads do. A Python handler would run only when the main thread
    comes back to Python: a signal that another thread was given, or that came just before the main thread began to read, would
    wait for the next one (CPython 3.11, signalmodule.c).
    """

    def __init__(self) -> None:
        self._signals, self._tell = os.pipe()
        self._why: StillframeError | None = None
        os.set_blocking(self._tell, False)
        signal.set_wakeup_fd(self._tell, warn_on_full_buffer=False)
        taken = (signal.SIGTERM, signal.SIGINT, *(() if _has_terminal() else (signal.SIGHUP,)))
        for number in taken:
            signal.signal(number, lambda _number, _frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, taken)  # whoever started this process may have left them blocked

    def wait(self, *read_again: Callable[[], None]) -> None:
        """Returns when it is told to stop; until then it calls ``read_again`` for each SIGHUP. Raises the error that
        ``because`` was given."""
        while os.read(self._signals, 1) == bytes([signal.SIGHUP]):
            for each in read_again:
                each()
        if self._why is not None:
            raise self._why
        LOG.info("stopping")

    def because(self, error: StillframeError) -> None:
        """Ends the wait like a signal does, but with an error."""
        self._why = error
        os.write(self._tell, b"\0")


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True

"""The HTTP server: cheroot, in a thread of ours, on an address of our choice."""

import threading
from collections.abc import Callable
from typing import Any

from cheroot import wsgi

from stillframe.errors import BadConfiguration

THREADS = 8


class Server:
    """Serves one WSGI application until stopped."""

    def __init__(self, application: Callable[..., Any], address: str, port: int) -> None:
        self._server = wsgi.Server((address, port), application, numthreads=THREADS, shutdown_timeout=5, timeout=30)
        self._server.max_request_header_size = 64 << 10
        try:
            self._server.prepare()
        except OSError as error:
            raise BadConfiguration(f"cannot listen on {address}:{port}: {error}") from error
        self._thread = threading.Thread(target=self._server.serve, name=f"http-{self.port}", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.bind_addr[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the server, also one that was bound and never started: binding alone starts its threads."""
        self._server.stop()
        if self._thread.ident is not None:
            self._thread.join(10)

"""HTTP over a Unix socket, for the services' calls to each other on one host."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import NewConnectionError

from stillframe.service_client.bounded import Answer, BoundedAdapter


class UnixAdapter(BoundedAdapter):
    """Sends requests under its prefix to a socket; the URL's host and port only go into the Host header."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__()

    def get_connection_with_tls_context(
        self,
        request: Any,
        verify: bool | str | None,
        proxies: Mapping[str, str] | None = None,
        cert: Any = None,
    ) -> "_Pool":
        return self._pool

    def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
        super().init_poolmanager(*arguments, **more)
        self._pool = _Pool(self._path)

    def close(self) -> None:
        self._pool.close()
        super().close()


class _Pool(HTTPConnectionPool):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", maxsize=10)
        self._path = path

    def _new_conn(self) -> "_Connection":
        return _Connection(self._path, self.timeout.connect_timeout)


class _Connection(HTTPConnection):
    response_class = Answer

    def __init__(self, path: Path, seconds: Any) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # By the directory's descriptor, because the address may have 107 bytes and the directory's name be longer.
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                connected.connect(f"/proc/self/fd/{directory}/{self._path.name}")
            finally:
                os.close(directory)
        except OSError as error:
            connected.close()
            raise NewConnectionError(self, f"cannot connect to {self._path}: {error}") from error
        self.sock = connected

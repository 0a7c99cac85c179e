"""An S3 service on loopback, and a proxy before it that answers with an error or breaks off where a test says so."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from moto.server import ThreadedMotoServer

CREDENTIALS = "[default]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = canary-3f9d2c71e0\n"
SECRET = "canary-3f9d2c71e0"


@dataclass(frozen=True)
class Fault:
    """What happens to a request instead of, or besides, its answer: a status, or the end of the answer after some bytes."""

    status: int | None = None
    cut_after: int | None = None


@dataclass
class Proxy:
    """``plan`` decides on each request, by method and path with query. ``seen`` holds the headers of every request."""

    target: str
    plan: Callable[[str, str], Fault | None] = lambda _method, _path: None
    seen: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


@contextmanager
def s3_service() -> Iterator[str]:
    """Runs an S3 service; yields its URL."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def credentials_file(directory: Path) -> Path:
    path = directory / "credentials"
    path.write_text(CREDENTIALS)
    path.chmod(0o600)
    return path


@contextmanager
def proxied(target: str) -> Iterator[Proxy]:
    """Runs a proxy before ``target``."""
    proxy = Proxy(target)

    class Handler(_Handler):
        about = proxy

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    about: Proxy

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.about.seen.append(dict(self.headers))
        fault = self.about.plan(self.command, self.path) or Fault()
        self.close_connection = True
        if fault.status is not None:
            self._answer(fault.status, b"<Error><Code>InsufficientStorage</Code></Error>", {})
            return
        connection = http.client.HTTPConnection(urlsplit(self.about.target).netloc)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        kept = {n: v for n, v in answer.getheaders() if n.lower() not in ("connection", "transfer-encoding", "content-length")}
        length = answer.getheader("Content-Length", str(len(content)))
        connection.close()
        self._answer(answer.status, content[: fault.cut_after], {**kept, "Content-Length": length})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(content)), "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the proxy's messages out of the tests' output."""

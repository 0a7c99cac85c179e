"""An image service that keeps images in memory: the part of Glance's API that Stillframe asks, over a real socket.

For tests that kill Stillframe many times; what Glance itself does is tested against a real one (``glance``).
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MIB = 1 << 20


class ImageStore:
    """``images`` are the documents by id, ``content`` the bytes."""

    def __init__(self) -> None:
        self.images: dict[str, dict[str, Any]] = {}
        self.content: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.url = ""

    def add(self, image_id: str, content: bytes, disk_format: str = "qcow2") -> None:
        """Puts an image that everybody may see."""
        self.create({"id": image_id, "name": "put", "disk_format": disk_format, "visibility": "public", "owner": "x"})
        self.put(image_id, content)

    def create(self, body: dict[str, Any]) -> None:
        rest = {"container_format": "bare", "min_disk": 0, "min_ram": 0, "protected": False, "virtual_size": None}
        with self.lock:
            self.images[body["id"]] = {**rest, **body, "status": "queued", "size": None, "checksum": None}

    def put(self, image_id: str, content: bytes) -> None:
        digest = {"os_hash_algo": "sha512", "os_hash_value": hashlib.sha512(content).hexdigest()}
        with self.lock:
            self.content[image_id] = content
            self.images[image_id] |= {"status": "active", "size": len(content), **digest}


class Handler(BaseHTTPRequestHandler):
    """One connection; ``store`` is set by whoever starts the server."""

    store: ImageStore
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the server's messages out of the tests' output."""

    def _answer(self, status: int, body: Any = None) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        found = b""
        while (length := int(self.rfile.readline().split(b";")[0], 16)) > 0:
            found += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _image(self) -> str | None:
        parts = self.path.split("?")[0].strip("/").split("/")
        image_id = parts[2] if len(parts) > 2 else ""
        if image_id in self.store.images:
            return image_id
        self._answer(404, {})
        return None

    def do_GET(self) -> None:
        if (image_id := self._image()) is not None:
            whole = self.path.endswith("/file")
            self._answer(200, self.store.content[image_id] if whole else self.store.images[image_id])

    def do_POST(self) -> None:
        body = json.loads(self._body())
        if body["id"] in self.store.images:
            self._answer(409, {})
            return
        self.store.create(body)
        self._answer(201, self.store.images[body["id"]])

    def do_PUT(self) -> None:
        content = self._body()
        if (image_id := self._image()) is not None:
            self.store.put(image_id, content)
            self._answer(204)

    def do_DELETE(self) -> None:
        if (image_id := self._image()) is not None:
            with self.store.lock:
                del self.store.images[image_id]
                self.store.content.pop(image_id, None)
            self._answer(204)


@contextmanager
def image_store() -> Iterator[ImageStore]:
    store = ImageStore()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"store": store}))
    store.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

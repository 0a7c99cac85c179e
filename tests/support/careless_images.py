"""An image service that checks nothing: it serves any bytes in any declared format with the right hash, and accepts any.

Glance checks what it is given and would refuse most of the hostile files; block storage may not rely on that.
"""

import hashlib
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class CarelessImages:
    """Images by id: what is told of them, and their content."""

    url: str = ""
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    content: dict[str, bytes] = field(default_factory=dict)

    def add(self, content: bytes, disk_format: str) -> str:
        image_id = str(uuid.uuid4())
        self.make({"id": image_id, "disk_format": disk_format, "container_format": "bare", "visibility": "public"})
        self.put(image_id, content)
        return image_id

    def make(self, wanted: dict[str, Any]) -> dict[str, Any]:
        plain = {"name": "image", "status": "queued", "min_disk": 0, "min_ram": 0, "protected": False, "size": None}
        self.told[wanted["id"]] = {**plain, **wanted}
        return self.told[wanted["id"]]

    def put(self, image_id: str, content: bytes) -> None:
        self.content[image_id] = content
        digest = hashlib.sha512(content).hexdigest()
        facts = {"status": "active", "size": len(content), "os_hash_algo": "sha512", "os_hash_value": digest}
        self.told[image_id] |= facts


class _Handler(BaseHTTPRequestHandler):
    images: CarelessImages

    def do_GET(self) -> None:
        image_id = self.path.split("/")[3]
        if self.path.endswith("/file"):
            self._answer(200, self.images.content[image_id])
        elif image_id in self.images.told:
            self._answer(200, json.dumps(self.images.told[image_id]).encode())
        else:
            self._answer(404, b"{}")

    def do_POST(self) -> None:
        self._answer(201, json.dumps(self.images.make(json.loads(self._body()))).encode())

    def do_PUT(self) -> None:
        self.images.put(self.path.split("/")[3], self._body())
        self._answer(204, b"")

    def do_DELETE(self) -> None:
        self.images.told.pop(self.path.split("/")[3], None)
        self._answer(204, b"")

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers["Content-Length"]))
        found = bytearray()
        while length := int(self.rfile.readline(), 16):
            found += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(found)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        pass


@contextmanager
def careless_images() -> Iterator[CarelessImages]:
    images = CarelessImages()
    handler = type("Handler", (_Handler,), {"images": images})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        images.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield images
        finally:
            server.shutdown()
            thread.join()

"""An image service that is a list of answers: no socket, every request remembered."""

import io
import json
from typing import Any

import requests
import urllib3
from requests.adapters import BaseAdapter

from stillframe import config
from stillframe.volumes.images import ImageDoor

IMAGE = "7a7a7a7a-7777-4777-8777-777777777777"
ENDPOINT = "http://glance.example.org"


def answer(status: int = 200, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """One answer: ``body`` is bytes, a document, or None; a double underscore in a header's name stands for a dash."""
    return status, body, {name.replace("__", "-"): value for name, value in headers.items()}


def document(**more: Any) -> dict[str, Any]:
    """An image as Glance shows it."""
    return {
        "id": IMAGE,
        "name": "image",
        "status": "active",
        "owner": "demo",
        "visibility": "shared",
        "disk_format": "raw",
        "container_format": "bare",
        "size": 4,
        "virtual_size": 4,
        "min_disk": 0,
        "min_ram": 0,
        "checksum": None,
        "os_hash_algo": None,
        "os_hash_value": None,
        "protected": False,
        **more,
    }


class Answers(BaseAdapter):
    """Gives the answers in their order; an exception among them is raised."""

    def __init__(self, *answers: Any) -> None:
        super().__init__()
        self._answers = list(answers)
        self.asked: list[requests.PreparedRequest] = []
        self.bodies: list[bytes] = []

    def send(self, request: requests.PreparedRequest, *_more: Any, **_named: Any) -> requests.Response:
        self.asked.append(request)
        self.bodies.append(_drain(request.body))
        found = self._answers.pop(0)
        if isinstance(found, Exception):
            raise found
        status, body, headers = found
        raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        response = requests.Response()
        response.status_code = status
        response.headers.update(headers)
        response.url = request.url or ""
        response.request = request
        response.raw = urllib3.HTTPResponse(
            io.BytesIO(raw), headers=headers, preload_content=False, enforce_content_length=True, request_method=request.method
        )
        return response

    def close(self) -> None:
        pass

    @property
    def paths(self) -> list[str]:
        return [f"{request.method} {(request.url or '').removeprefix(ENDPOINT)}" for request in self.asked]


def _drain(body: Any) -> bytes:
    if body is None:
        return b""
    return b"".join(body) if hasattr(body, "read") else body if isinstance(body, bytes) else str(body).encode()


def door(*answers: Any, **options: Any) -> tuple[ImageDoor, Answers]:
    """A door that needs no signing in, and what it will be answered."""
    given = {"endpoint": ENDPOINT, **options}
    made = ImageDoor(config.load(overrides={("image", name): value for name, value in given.items()}))
    site = Answers(*answers)
    made._session._session().session.mount("http://", site)
    return made, site

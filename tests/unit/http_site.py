"""HTTP without a socket: answers put into a requests session in place of a connection, every request remembered."""

import io
import json
from collections.abc import Callable
from typing import Any

import requests
import urllib3
from requests.adapters import BaseAdapter

Answer = tuple[int, Any, dict[str, str]]


def answer(status: int = 200, body: Any = None, **headers: str) -> Answer:
    """One answer: ``body`` is bytes, a document, or None; a double underscore in a header's name stands for a dash."""
    return status, body, {name.replace("__", "-"): value for name, value in headers.items()}


class Site(BaseAdapter):
    """Answers each request with what ``respond`` makes of it; an exception it returns is raised."""

    def __init__(self, respond: Callable[[requests.PreparedRequest], Answer | Exception]) -> None:
        super().__init__()
        self._respond = respond
        self.asked: list[requests.PreparedRequest] = []
        self.bodies: list[bytes] = []

    def send(self, request: requests.PreparedRequest, *_more: Any, **_named: Any) -> requests.Response:
        self.asked.append(request)
        self.bodies.append(_drain(request.body))
        found = self._respond(request)
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
        """Method and path of each request."""
        return [f"{request.method} {request.path_url}" for request in self.asked]


def in_order(*answers: Any) -> Site:
    """Gives the answers in their order."""
    left = list(answers)
    return Site(lambda _request: left.pop(0))


def _drain(body: Any) -> bytes:
    if body is None:
        return b""
    return b"".join(body) if hasattr(body, "read") else body if isinstance(body, bytes) else str(body).encode()

"""Requests of the client library: sent over an adapter, answered with a document or an error of ours."""

from typing import Any

from stillframe.client import ADDITIONS
from stillframe.client.faults import error_of


class Caller:
    """One service, "volume" or "compute", over any adapter that carries credentials: openstacksdk's, keystoneauth's."""

    def __init__(self, adapter: Any, service: str) -> None:
        self._adapter = adapter
        self._service = service

    def send(self, method: str, path: str, body: Any = None) -> Any:
        """Returns the answer's document, or None. Raises an error of the answer's kind."""
        answer = self._adapter.request(path, method, json=body, headers={ADDITIONS: "1"}, raise_exc=False)
        if answer.status_code >= 400:
            raise error_of(answer.status_code, answer, self._service)
        return answer.json() if answer.content else None

    def get(self, path: str) -> Any:
        """Returns the JSON document that ``path`` answers. Raises as ``send``."""
        return self.send("GET", path)

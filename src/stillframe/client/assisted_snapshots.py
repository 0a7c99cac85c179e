"""The client library's noun: assisted snapshots, over any adapter that carries credentials (openstacksdk's, keystoneauth's)."""

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from stillframe.client.session import error_of
from stillframe.errors import BadRequest, NotFound, ServiceUnavailable

Document = dict[str, Any]
POLL_SECONDS = 0.2


def one(what: str, name_or_id: str, found: list[Document]) -> str:
    """Returns the id of the only one that has the name or id. Raises NotFound, or BadRequest when a name fits several."""
    fitting = [each["id"] for each in found if name_or_id in (each["id"], each["name"])]
    if not fitting:
        raise NotFound(f"no {what} has the name or id {name_or_id!r}")
    if len(fitting) > 1:
        raise BadRequest(f"{len(fitting)} {what}s have the name {name_or_id!r}: {', '.join(fitting)}")
    return str(fitting[0])


class AssistedSnapshots:
    """Creates, lists, shows, labels and deletes assisted snapshots; servers and volumes may be named by id or by name."""

    def __init__(self, compute: Any, volumes: Any) -> None:
        self._compute = compute
        self._volumes = volumes

    def _call(self, adapter: Any, service: str, method: str, path: str, body: Any = None) -> Any:
        answer = adapter.request(path, method, json=body, raise_exc=False)
        if answer.status_code >= 400:
            raise error_of(answer.status_code, answer, service)
        return answer.json() if answer.content else None

    def compute(self, method: str, path: str, body: Any = None) -> Any:
        """Sends one request to compute; returns the answer's document, or None. Raises an error of the answer's kind."""
        return self._call(self._compute, "compute", method, path, body)

    def find_server(self, name_or_id: str) -> str:
        """Returns the server's id. Raises NotFound, or BadRequest when a name fits several."""
        found = self._call(self._compute, "compute", "GET", "/servers/detail")["servers"]
        return one("server", name_or_id, found)

    def find_volume(self, name_or_id: str) -> str:
        found = self._call(self._volumes, "volume", "GET", "/volumes/detail")["volumes"]
        return one("volume", name_or_id, found)

    def create(self, server_id: str, wanted: Document) -> Document:
        """``wanted`` holds name, description, metadata, volumes and quiesce; returns the set's document."""
        path = f"/servers/{server_id}/os-assisted-snapshots"
        found: Document = self._call(self._compute, "compute", "POST", path, {"assisted_snapshot": wanted})
        return dict(found["assisted_snapshot"])

    def list(self, server_id: str | None = None, policy_id: str | None = None) -> "list[Document]":
        path = f"/servers/{server_id}/os-assisted-snapshots" if server_id else "/os-assisted-snapshots"
        found: Document = self._call(self._compute, "compute", "GET", path + (f"?policy_id={policy_id}" if policy_id else ""))
        return [dict(each) for each in found["assisted_snapshots"]]

    def show(self, name_or_id: str) -> Document:
        """Returns the set of that id, or the only one of that name."""
        try:
            found: Document = self._call(
                self._compute, "compute", "GET", f"/os-assisted-snapshots/{quote(name_or_id, safe='')}"
            )
            return dict(found["assisted_snapshot"])
        except NotFound:
            named = [each for each in self.list() if each["name"] == name_or_id]
        set_id = one("assisted snapshot", name_or_id, named)
        return next(each for each in named if each["id"] == set_id)

    def change(self, set_id: str, changes: Document) -> Document:
        """``changes`` holds name, description and metadata, each replaced as a whole; returns the set's document."""
        found: Document = self.compute("PUT", f"/os-assisted-snapshots/{set_id}", {"assisted_snapshot": changes})
        return dict(found["assisted_snapshot"])

    def delete(self, name_or_id: str) -> str:
        found = self.show(name_or_id)
        path = f"/servers/{found['server_id']}/os-assisted-snapshots/{found['id']}"
        self._call(self._compute, "compute", "DELETE", path)
        return str(found["id"])

    def wait(self, set_id: str, seconds: float, progressed: Callable[[Document], None]) -> Document:
        """Returns the set once it is available or error. Raises ServiceUnavailable after ``seconds``."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.show(set_id)
            progressed(found)
            if found["status"] not in ("creating", "deleting"):
                return found
            time.sleep(POLL_SECONDS)
        raise ServiceUnavailable(f"assisted snapshot {set_id} did not end within {seconds:g} s")

    def wait_gone(self, set_id: str, seconds: float) -> None:
        """Returns once the set is gone. Raises BadRequest when the deletion failed."""
        try:
            found = self.wait(set_id, seconds, lambda _found: None)
        except NotFound:
            return
        raise BadRequest(f"assisted snapshot {set_id} was not deleted: {found['fault']}")

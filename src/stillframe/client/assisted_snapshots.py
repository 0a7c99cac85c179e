"""The client library's noun: assisted snapshots, over any adapter that carries credentials (openstacksdk's, keystoneauth's)."""

import uuid
from typing import Any
from urllib.parse import urlencode

from stillframe.client import listing, waiting
from stillframe.client.caller import Caller
from stillframe.client.waiting import Progressed
from stillframe.errors import NotFound, StepFailed

Document = dict[str, Any]


class AssistedSnapshots:
    """Creates, lists, shows, labels and deletes assisted snapshots; servers and volumes may be named by id or by name."""

    def __init__(self, compute: Any, volumes: Any) -> None:
        self._compute, self._volumes = Caller(compute, "compute"), Caller(volumes, "volume")

    def compute(self, method: str, path: str, body: Any = None) -> Any:
        """Sends one request to compute; returns the answer's document, or None. Raises an error of the answer's kind."""
        return self._compute.send(method, path, body)

    def find_server(self, name_or_id: str) -> str:
        """Returns the server's id. Raises NotFound, or BadRequest when a name fits several."""
        return str(listing.find(self._compute.get, listing.SERVERS, name_or_id)["id"])

    def find_volume(self, name_or_id: str) -> str:
        """Returns the id of a volume of that name or id. Raises NotFound, and BadRequest where several have the name."""
        return str(listing.find(self._volumes.get, listing.VOLUMES, name_or_id)["id"])

    def create(self, server_id: str, wanted: Document) -> Document:
        """``wanted`` holds name, description, metadata, volumes, quiesce, wait and the rest; returns the set's document.

        The set's id is chosen here unless ``wanted`` has one, so that a request whose answer was lost is sent again without
        making a second set.
        """
        path, body = f"/servers/{server_id}/os-assisted-snapshots", {"id": str(uuid.uuid4()), **wanted}
        found: Document = waiting.repeated(lambda: self.compute("POST", path, {"assisted_snapshot": body}))
        return dict(found["assisted_snapshot"])

    def list(self, server_id: str | None = None, policy_id: str | None = None) -> "list[Document]":
        """Returns the sets of the project, or those of one server or one policy, newest first."""
        path = f"/servers/{server_id}/os-assisted-snapshots" if server_id else "/os-assisted-snapshots"
        query = f"?{urlencode({'policy_id': policy_id})}" if policy_id else ""
        return listing.whole(self._compute.get, path + query, "assisted_snapshots")

    def show(self, name_or_id: str) -> Document:
        """Returns the set of that id, or the only one of that name."""
        return listing.find(self._compute.get, listing.SETS, name_or_id)

    def _look(self, set_id: str) -> Document:
        found: Document = self.compute("GET", f"/os-assisted-snapshots/{set_id}")
        return dict(found["assisted_snapshot"])

    def change(self, set_id: str, changes: Document) -> Document:
        """``changes`` holds name, description and metadata, each replaced as a whole; returns the set's document."""
        found: Document = self.compute("PUT", f"/os-assisted-snapshots/{set_id}", {"assisted_snapshot": changes})
        return dict(found["assisted_snapshot"])

    def explain_deletion(self, name_or_id: str) -> Document:
        """Returns what deleting the set would do and copy: possible, method, bytes, seconds, why, dependants, volumes."""
        path = f"/os-assisted-snapshots/{self.show(name_or_id)['id']}?explain=1"
        found: Document = self.compute("GET", path)["assisted_snapshot"]["deletion"]
        return found

    def delete(self, name_or_id: str) -> str:
        """Begins to delete a set and all its snapshots; returns its id. Raises NotFound, Conflict."""
        found = self.show(name_or_id)
        path = f"/servers/{found['server_id']}/os-assisted-snapshots/{found['id']}"
        self.compute("DELETE", path)
        return str(found["id"])

    def wait(self, set_id: str, seconds: float | None, progressed: Progressed) -> Document:
        """Returns the set once it is available or error. Raises StillRunning after ``seconds``; None: no end."""

        def look() -> Document:
            found = self._look(set_id)
            progressed(found)
            return found

        found = waiting.until(look, seconds, f"assisted snapshot {set_id}")
        assert found is not None
        return found

    def wait_gone(self, set_id: str, seconds: float | None, progressed: Progressed) -> None:
        """Returns once the set is gone. Raises StepFailed when the deletion failed, StillRunning after ``seconds``."""
        try:
            found = self.wait(set_id, seconds, progressed)
        except NotFound:
            return
        raise StepFailed(f"assisted snapshot {set_id} was not deleted completely: {found['fault']}")

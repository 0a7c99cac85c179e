"""The client library's noun for disks that servers have already: adopted as volumes, and released again."""

from collections.abc import Sequence
from typing import Any

from stillframe.client import listing, waiting
from stillframe.client.caller import Caller
from stillframe.errors import StepFailed

Document = dict[str, Any]
_ENDS = ("done", "undone", "parked")


class AdoptedDisks:
    """Adopts and releases the disks of servers; servers may be named by id or by name."""

    def __init__(self, compute: Any) -> None:
        self._compute = Caller(compute, "compute")

    def find_server(self, name_or_id: str) -> str:
        """Returns the server's id. Raises NotFound, or BadRequest when a name fits several."""
        return str(listing.find(self._compute.get, listing.SERVERS, name_or_id)["id"])

    def servers(self) -> list[Document]:
        """Returns every server of every project. Raises Forbidden for who is no administrator."""
        return listing.whole(self._compute.get, "/servers/detail?all_tenants=1", "servers")

    def look(self, server_id: str) -> Document:
        """Returns the disks of a server and how the last adoption or release ended."""
        found: Document = self._compute.send("GET", f"/servers/{server_id}/os-adopt-disks", None)["adoption"]
        return found

    def adopt(self, server_id: str, targets: Sequence[str], dry_run: bool) -> Document:
        """Begins to adopt disks, all that can be without ``targets``; with ``dry_run`` only says what would become of each."""
        body = {"adopt": {"disks": list(targets) or "all", "dry_run": dry_run}}
        found: Document = self._compute.send("POST", f"/servers/{server_id}/os-adopt-disks", body)["adoption"]
        return found

    def release(self, server_id: str, delete_snapshots: bool, keep_files: bool) -> Document:
        """Begins to release all adopted disks of a server. Raises Conflict."""
        body = {"release": {"delete_snapshots": delete_snapshots, "keep_files": keep_files}}
        found: Document = self._compute.send("POST", f"/servers/{server_id}/os-release-disks", body)["release"]
        return found

    def wait(self, server_id: str, operation_id: str, seconds: float | None) -> Document:
        """Returns what ``look`` does when the operation has ended. Raises StepFailed when it failed, StillRunning after
        ``seconds``."""

        def look() -> Document:
            found = self.look(server_id)
            ended = found["operation"] is None or found["operation"]["state"] in _ENDS
            return {**found, "status": "ended" if ended else "creating"}

        found = waiting.until(look, seconds, f"operation {operation_id}")
        assert found is not None
        operation = found["operation"]
        if operation is not None and operation["id"] == operation_id and operation["state"] != "done":
            raise StepFailed((operation["fault"] or {}).get("message") or f"operation {operation_id} is {operation['state']}")
        return found

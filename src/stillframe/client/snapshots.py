"""The client library's noun: what block storage's snapshots have beyond the standard calls."""

from collections.abc import Sequence
from typing import Any

from stillframe.client import listing, waiting
from stillframe.client.caller import Caller
from stillframe.client.waiting import Progressed
from stillframe.errors import NotFound, StepFailed

Document = dict[str, Any]


class Snapshots:
    """Explains, deletes and cancels, over any adapter that carries credentials for block storage. Snapshots may be named by
    id or by name."""

    def __init__(self, volumes: Any) -> None:
        self._volumes = Caller(volumes, "volume")

    def find(self, name_or_id: str) -> Document:
        """Returns the snapshot. Raises NotFound, or BadRequest when a name fits several."""
        return listing.find(self._volumes.get, listing.SNAPSHOTS, name_or_id)

    def explain(self, name_or_id: str) -> Document:
        """Returns what a deletion would do: possible, method, steps, bytes, seconds, why, dependants."""
        snapshot_id = self.find(name_or_id)["id"]
        found: Document = self._volumes.send("GET", f"/snapshots/{snapshot_id}?explain=1")["snapshot"]["deletion"]
        return found

    def delete(self, names: Sequence[str], bandwidth_mib: int = 0) -> list[str]:
        """Starts to delete; those of one volume as one plan. Returns their ids."""
        by_volume: dict[str, list[str]] = {}
        for name in names:
            found = self.find(name)
            by_volume.setdefault(found["volume_id"], []).append(found["id"])
        for volume_id, ids in by_volume.items():
            if len(ids) == 1:
                self._volumes.send("DELETE", f"/snapshots/{ids[0]}?bandwidth_mib={bandwidth_mib}")
            else:
                wanted = {"snapshot_ids": ids, "bandwidth_mib": bandwidth_mib}
                self._volumes.send("POST", f"/volumes/{volume_id}/action", {"os-delete_snapshots": wanted})
        return [snapshot_id for ids in by_volume.values() for snapshot_id in ids]

    def cancel(self, name_or_id: str) -> None:
        """Cancels a deletion that merges under a running server."""
        self._volumes.send("POST", f"/snapshots/{self.find(name_or_id)['id']}/action", {"os-cancel_deletion": {}})

    def wait_gone(self, snapshot_id: str, seconds: float | None, progressed: Progressed) -> None:
        """Waits until a snapshot is gone. Raises StepFailed when it stays, StillRunning after ``seconds``."""

        def look() -> Document | None:
            try:
                found: Document = self._volumes.send("GET", f"/snapshots/{snapshot_id}")["snapshot"]
            except NotFound:
                return None
            if found["status"] == "deleting":
                percent = str(found["os-extended-snapshot-attributes:progress"]).rstrip("%")
                progressed({"status": "deleting", "progress": int(percent) if percent.isdecimal() else 0})
            return found

        found = waiting.until(look, seconds, f"the deletion of snapshot {snapshot_id}")
        if found is not None:
            raise StepFailed(f"snapshot {snapshot_id} is {found['status']}: {found.get('fault') or 'it was not deleted'}")

"""The client library's noun: what block storage's snapshots have beyond the standard calls."""

import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from stillframe.client.session import error_of
from stillframe.errors import BadRequest, NotFound, ServiceUnavailable, StepFailed

Document = dict[str, Any]
POLL_SECONDS = 0.5


class Snapshots:
    """Explains, deletes and cancels, over any adapter that carries credentials for block storage. Snapshots may be named by
    id or by name."""

    def __init__(self, volumes: Any) -> None:
        self._volumes = volumes

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._volumes.request(path, method, json=body, raise_exc=False)
        if answer.status_code >= 400:
            raise error_of(answer.status_code, answer, "volume")
        return answer.json() if answer.content else None

    def find(self, name_or_id: str) -> Document:
        """Returns the snapshot. Raises NotFound, or BadRequest when a name fits several."""
        try:
            found: Document = self._call("GET", f"/snapshots/{quote(name_or_id, safe='')}")["snapshot"]
            return found
        except (NotFound, BadRequest):
            named = self._call("GET", f"/snapshots/detail?name={quote(name_or_id, safe='')}")["snapshots"]
        if not named:
            raise NotFound(f"no snapshot has the name or id {name_or_id!r}")
        if len(named) > 1:
            raise BadRequest(f"{len(named)} snapshots have the name {name_or_id!r}: {', '.join(each['id'] for each in named)}")
        return dict(named[0])

    def explain(self, name_or_id: str) -> Document:
        """Returns what a deletion would do: possible, method, steps, bytes, seconds, why, dependants."""
        snapshot_id = self.find(name_or_id)["id"]
        found: Document = self._call("GET", f"/snapshots/{snapshot_id}?explain=1")["snapshot"]["deletion"]
        return found

    def delete(self, names: Sequence[str], bandwidth_mib: int = 0) -> list[str]:
        """Starts to delete; those of one volume as one plan. Returns their ids."""
        by_volume: dict[str, list[str]] = {}
        for name in names:
            found = self.find(name)
            by_volume.setdefault(found["volume_id"], []).append(found["id"])
        for volume_id, ids in by_volume.items():
            if len(ids) == 1:
                self._call("DELETE", f"/snapshots/{ids[0]}?bandwidth_mib={bandwidth_mib}")
            else:
                wanted = {"snapshot_ids": ids, "bandwidth_mib": bandwidth_mib}
                self._call("POST", f"/volumes/{volume_id}/action", {"os-delete_snapshots": wanted})
        return [snapshot_id for ids in by_volume.values() for snapshot_id in ids]

    def cancel(self, name_or_id: str) -> None:
        """Gives up a deletion that merges under a running server."""
        self._call("POST", f"/snapshots/{self.find(name_or_id)['id']}/action", {"os-cancel_deletion": {}})

    def wait_gone(self, snapshot_id: str, seconds: float, progressed: Callable[[Document], None]) -> None:
        """Waits until a snapshot is gone. Raises StepFailed when it stays, ServiceUnavailable after ``seconds``."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                found = self._call("GET", f"/snapshots/{snapshot_id}")["snapshot"]
            except NotFound:
                return
            if found["status"] != "deleting":
                raise StepFailed(f"snapshot {snapshot_id} is {found['status']}: {found.get('fault') or 'it was not deleted'}")
            percent = str(found["os-extended-snapshot-attributes:progress"]).rstrip("%")
            progressed({"status": "deleting", "progress": int(percent) if percent.isdecimal() else 0})
            time.sleep(POLL_SECONDS)
        raise ServiceUnavailable(f"snapshot {snapshot_id} is still being deleted after {seconds:g} s")

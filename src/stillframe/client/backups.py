"""The client library's noun: what backups have beyond the standard calls."""

from typing import Any

from stillframe.client import listing
from stillframe.client.caller import Caller
from stillframe.client.listing import Noun

Document = dict[str, Any]


class Backups:
    """Tells beforehand what making, restoring and deleting a backup costs, over any adapter that carries credentials for block
    storage. Backups, volumes and snapshots may be named by id or by name."""

    def __init__(self, volumes: Any) -> None:
        self._volumes = Caller(volumes, "volume")

    def _find(self, noun: Noun, name_or_id: str) -> str:
        """Raises NotFound, or BadRequest when a name fits several."""
        return str(listing.find(self._volumes.get, noun, name_or_id)["id"])

    def explain_create(self, volume: str, snapshot: str | None = None, incremental: bool = False) -> Document:
        """Returns what a backup would read and store: bytes, bytes_stored, staging_needed, seconds, possible, why ..."""
        wanted: Document = {"volume_id": self._find(listing.VOLUMES, volume), "incremental": incremental}
        if snapshot is not None:
            wanted["snapshot_id"] = self._find(listing.SNAPSHOTS, snapshot)
        found: Document = self._volumes.send("POST", "/backups?explain=1", {"backup": wanted})["explanation"]
        return found

    def explain_restore(self, backup: str, volume: str | None = None) -> Document:
        """Returns what a restore would fetch and write, into a new volume or over ``volume``, and what is free for it."""
        wanted = {"volume_id": self._find(listing.VOLUMES, volume)} if volume else {}
        backup_id = self._find(listing.BACKUPS, backup)
        found: Document = self._volumes.send("POST", f"/backups/{backup_id}/restore?explain=1", {"restore": wanted})[
            "explanation"
        ]
        return found

    def explain_delete(self, backup: str) -> Document:
        """Returns what a deletion would free, and what is copied after it."""
        found: Document = self._volumes.send("GET", f"/backups/{self._find(listing.BACKUPS, backup)}?explain=1")["backup"][
            "deletion"
        ]
        return found

"""Compute's client of block storage: its public REST API, as the service user."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from stillframe.client import listing
from stillframe.config import Settings
from stillframe.errors import BadRequest, NotFound
from stillframe.service_client.credentials import service_endpoint
from stillframe.service_client.session import Session

Document = dict[str, Any]
FAULT_LENGTH = 4000
PAGE = 4  # volumes looked through for each one wanted


class StorageDoor:
    """One method per call; answers are block storage's documents. Raises NotFound, Conflict, ServiceUnavailable ..."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: Session | None = None

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        if self._session is None:
            self._session = Session(service_endpoint(self._settings, "volume"))
        return self._session.call(method, path, body)

    def volume(self, volume_id: str) -> Document:
        found: Document = self._call("GET", f"/volumes/{volume_id}")["volume"]
        return found

    def volumes_of(self, project_id: str, volume_ids: Sequence[str]) -> dict[str, Document]:
        """Returns volumes of one project by id; of another project's or a missing one there is none.

        One page of those in use usually has them all, because the newest come first; the rest is asked for one by one, so
        that a project with thousands of volumes costs no more than before.
        """
        found: dict[str, Document] = {}
        if len(volume_ids) > 1:
            wanted = f"all_tenants=1&project_id={quote(project_id, safe='')}&status=in-use&limit={PAGE * len(volume_ids)}"
            page: list[Document] = self._call("GET", f"/volumes/detail?{wanted}")["volumes"]
            found = {volume["id"]: volume for volume in page if volume["id"] in volume_ids}
        for volume_id in set(volume_ids) - set(found):
            with suppress(NotFound):
                found[volume_id] = self.volume(volume_id)
        return {each: volume for each, volume in found.items() if volume["os-vol-tenant-attr:tenant_id"] == project_id}

    def attachments_of(self, server_id: str, project_id: str) -> list[Document]:
        """Returns the attachments of volumes of the server's project to the server, with their connection_info. Attachments
        that other projects made to the server are not among them."""
        return self._attachments(f"instance_id={server_id}&project_id={quote(project_id, safe='')}")

    def _attachments(self, query: str) -> list[Document]:
        path = f"/attachments/detail?all_tenants=1&{query}&limit={listing.WITHOUT_LINKS}"
        return listing.whole(self._get, path, "attachments")

    def _get(self, path: str) -> Any:
        return self._call("GET", path)

    def attachment(self, volume_id: str, server_id: str) -> Document | None:
        found = self._attachments(f"instance_id={server_id}&volume_id={volume_id}")
        return found[0] if found else None

    def reserve(self, volume_id: str, server_id: str) -> str:
        wanted = {"attachment": {"volume_uuid": volume_id, "instance_uuid": server_id, "connector": None}}
        return str(self._call("POST", "/attachments", wanted)["attachment"]["id"])

    def connect(self, attachment_id: str, connector: Document) -> Document:
        """Returns the connection_info."""
        body = {"attachment": {"connector": connector}}
        info: Document = self._call("PUT", f"/attachments/{attachment_id}", body)["attachment"]["connection_info"]
        return info

    def complete(self, attachment_id: str) -> None:
        self._call("POST", f"/attachments/{attachment_id}/action", {"os-complete": None})

    def report_guest_disk(self, attachment_id: str, present: bool) -> None:
        """Says whether the running guest was just seen with the disk. Raises NotFound."""
        self._call("POST", f"/attachments/{attachment_id}/action", {"os-report_guest_disk": {"present": present}})

    def release(self, attachment_id: str) -> None:
        try:
            self._call("DELETE", f"/attachments/{attachment_id}")
        except NotFound:
            return

    def note_fault(self, volume_id: str, fault: str) -> None:
        """Records on the volume why it was not attached or detached. A block storage without such a field is left alone."""
        with suppress(NotFound, BadRequest):
            self._call("POST", f"/volumes/{volume_id}/action", {"os-note_fault": {"fault": fault[:FAULT_LENGTH]}})

    def create_snapshot_metadata(self, volume_id: str, document: Document) -> Document:
        body = {"os-create_snapshot_metadata": document}
        found: Document = self._call("POST", f"/volumes/{volume_id}/action", body)["snapshot"]
        return found

    def finalize_snapshot_metadata(self, snapshot_id: str, document: Document) -> None:
        self._call("POST", f"/snapshots/{snapshot_id}/action", {"os-finalize_snapshot_metadata": document})

    def snapshot_delete_metadata(self, snapshot_id: str) -> None:
        try:
            self._call("POST", f"/snapshots/{snapshot_id}/action", {"os-snapshot_delete_metadata": {}})
        except NotFound:
            return

    def report_snapshot(self, snapshot_id: str, status: str, progress: str) -> None:
        """Nova's report on an assisted volume snapshot."""
        body = {"os-update_snapshot_status": {"status": status, "progress": progress}}
        self._call("POST", f"/snapshots/{snapshot_id}/action", body)

    def snapshot(self, snapshot_id: str) -> Document | None:
        try:
            found: Document = self._call("GET", f"/snapshots/{snapshot_id}")["snapshot"]
        except NotFound:
            return None
        return found

    def explain_deletion(self, snapshot_id: str) -> Document:
        """Returns what the deletion of a snapshot would do and copy. Raises NotFound."""
        found: Document = self._call("GET", f"/snapshots/{snapshot_id}?explain=1")["snapshot"]["deletion"]
        return found

    def being_deleted(self) -> set[str]:
        """Returns the ids of volumes a snapshot of which is being deleted."""
        found = listing.whole(self._get, "/snapshots/detail?all_tenants=1&status=deleting", "snapshots")
        return {snapshot["volume_id"] for snapshot in found}

    def snapshots_in_deletion(self) -> set[str]:
        """Returns the ids of the snapshots that are being deleted, of all projects."""
        found = listing.whole(self._get, "/snapshots?all_tenants=1&status=deleting", "snapshots")
        return {snapshot["id"] for snapshot in found}

    def delete_snapshot(self, snapshot_id: str) -> None:
        self._call("DELETE", f"/snapshots/{snapshot_id}")

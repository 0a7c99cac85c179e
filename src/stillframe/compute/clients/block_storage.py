"""Compute's client of block storage: its public REST API, as the service user."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from stillframe.client import listing
from stillframe.config import Settings
from stillframe.errors import BadRequest, NotFound, StillframeError, TooLarge
from stillframe.service_client.credentials import service_endpoint
from stillframe.service_client.session import Session

Document = dict[str, Any]
FAULT_LENGTH = 4000
PAGE = 4  # volumes looked through for each one wanted
_PROJECT = "os-extended-snapshot-attributes:project_id"
MOST_ON_A_PAGE = 200  # one entry with all that a project may write into it has 150 KiB


class StorageClient:
    """One method per call; answers are block storage's documents. Raises NotFound, Conflict, ServiceUnavailable ..."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: Session | None = None

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        if self._session is None:
            self._session = Session(service_endpoint(self._settings, "volume"))
        return self._session.call(method, path, body)

    def volume(self, volume_id: str) -> Document:
        """Returns a volume as block storage shows it. Raises NotFound, ServiceUnavailable."""
        found: Document = self._call("GET", f"/volumes/{volume_id}")["volume"]
        return found

    def volumes_of(self, project_id: str, volume_ids: Sequence[str]) -> dict[str, Document]:
        """Returns volumes of one project by id; of another project's or a missing one there is none.

        One page of those in use usually has them all, because the newest come first; the rest is asked for one by one, so
        that a project with thousands of volumes costs no more than before.
        """
        found: dict[str, Document] = {}
        if len(volume_ids) > 1:
            most = min(PAGE * len(volume_ids), MOST_ON_A_PAGE)
            wanted = f"all_tenants=1&project_id={quote(project_id, safe='')}&status=in-use&limit={most}"
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
        """Returns the attachment of a volume to a server, with its connection_info; None where there is none."""
        found = self._attachments(f"instance_id={server_id}&volume_id={volume_id}")
        return found[0] if found else None

    def look_at_adoptable(self, wanted: Document) -> Document:
        """Returns ``{"size", "parent_images"}`` of the volume that a file would be, in bytes and as paths; changes nothing.
        ``wanted``: directory, file, format. Raises what says why it cannot be one."""
        found: Document = self._call("POST", "/os-adopted-volumes/look", {"adopted_volume": wanted})["adopted_volume"]
        return found

    def adopt(self, wanted: Document) -> None:
        """Makes a volume of a file that a server has, attached to it. The same id again: the same volume."""
        self._call("POST", "/os-adopted-volumes", {"adopted_volume": wanted})

    def release_adopted(self, volume_id: str, keep_files: bool) -> bool:
        """Begins to end what ``adopt`` began; returns False when there is no such volume any more. Raises Busy, Conflict."""
        try:
            self._call("POST", f"/volumes/{volume_id}/action", {"os-release_adopted": {"keep_files": keep_files}})
        except NotFound:
            return False
        return True

    def snapshots_of(self, volume_id: str) -> list[Document]:
        """Returns the snapshots of a volume, of all projects."""
        path = f"/snapshots/detail?all_tenants=1&volume_id={volume_id}&limit={MOST_ON_A_PAGE}"
        return listing.whole(self._get, path, "snapshots")

    def reserve(self, volume_id: str, server_id: str) -> str:
        """Reserves a volume for a server; returns the attachment's id. Raises NotFound, Conflict, ServiceUnavailable."""
        wanted = {"attachment": {"volume_uuid": volume_id, "instance_uuid": server_id, "connector": None}}
        return str(self._call("POST", "/attachments", wanted)["attachment"]["id"])

    def connect(self, attachment_id: str, connector: Document) -> Document:
        """Returns the connection_info."""
        body = {"attachment": {"connector": connector}}
        info: Document = self._call("PUT", f"/attachments/{attachment_id}", body)["attachment"]["connection_info"]
        return info

    def complete(self, attachment_id: str) -> None:
        """Reports that the server has the disk. May be repeated."""
        self._call("POST", f"/attachments/{attachment_id}/action", {"os-complete": None})

    def report_guest_disk(self, attachment_id: str, present: bool) -> None:
        """Says whether the running guest was just seen with the disk. Raises NotFound."""
        self._call("POST", f"/attachments/{attachment_id}/action", {"os-report_guest_disk": {"present": present}})

    def release(self, attachment_id: str) -> None:
        """Ends an attachment; fine when there is none any more."""
        try:
            self._call("DELETE", f"/attachments/{attachment_id}")
        except NotFound:
            return

    def note_fault(self, volume_id: str, fault: str) -> None:
        """Records on the volume why it was not attached or detached. A block storage without such a field is left alone."""
        with suppress(NotFound, BadRequest):
            self._call("POST", f"/volumes/{volume_id}/action", {"os-note_fault": {"fault": fault[:FAULT_LENGTH]}})

    def create_snapshot_metadata(self, volume_id: str, document: Document) -> Document:
        """Makes the row of a snapshot in ``creating``; the answer names its overlay in ``file``. The same id again: the same
        answer."""
        body = {"os-create_snapshot_metadata": document}
        found: Document = self._call("POST", f"/volumes/{volume_id}/action", body)["snapshot"]
        return found

    def create_set_metadata(self, documents: Sequence[Document]) -> list[Document] | None:
        """``create_snapshot_metadata`` for the snapshots of a set in one request, for all or for none; each document has its
        ``volume_id``. None: ask for one after the other."""
        answer = self._at_once("create", documents)
        return None if answer is None else list(answer["snapshots"])

    def finalize_set_metadata(self, documents: Sequence[Document]) -> bool:
        """``finalize_snapshot_metadata`` for the snapshots of a set in one request, for all or for none; each document has its
        ``snapshot_id``. False: ask for one after the other."""
        return self._at_once("finalize", documents) is not None

    def _at_once(self, action: str, documents: Sequence[Document]) -> Document | None:
        """None where block storage does not know the request, as Cinder does not; where one of the things does not exist, which
        a request of its own tells better; and where it is too long."""
        try:
            answer: Document = self._call("POST", "/os-set-metadata", {action: {"snapshots": list(documents)}})
        except StillframeError as error:
            if isinstance(error, (NotFound, TooLarge)) or isinstance(error.__cause__, NotFound):
                return None
            raise
        return answer

    def finalize_snapshot_metadata(self, snapshot_id: str, document: Document) -> None:
        """Ends ``creating`` with "available" or "error". May be repeated. Raises Conflict for another transition."""
        self._call("POST", f"/snapshots/{snapshot_id}/action", {"os-finalize_snapshot_metadata": document})

    def snapshot_delete_metadata(self, snapshot_id: str) -> None:
        """Deletes the row of a snapshot whose overlay is in no chain; fine when there is none any more."""
        try:
            self._call("POST", f"/snapshots/{snapshot_id}/action", {"os-snapshot_delete_metadata": {}})
        except NotFound:
            return

    def report_snapshot(self, snapshot_id: str, status: str, progress: str) -> None:
        """Nova's report on an assisted volume snapshot."""
        body = {"os-update_snapshot_status": {"status": status, "progress": progress}}
        self._call("POST", f"/snapshots/{snapshot_id}/action", body)

    def snapshot(self, snapshot_id: str) -> Document | None:
        """Returns a snapshot as block storage shows it; None when there is none."""
        try:
            found: Document = self._call("GET", f"/snapshots/{snapshot_id}")["snapshot"]
        except NotFound:
            return None
        return found

    def snapshot_of(self, project_id: str, snapshot_id: str) -> Document | None:
        """As ``snapshot``, for one of the project; None also for one that is another project's by now. A set keeps naming the
        snapshots of a volume that its project gave away, and block storage lets a service read and delete them."""
        found = self.snapshot(snapshot_id)
        return found if found is None or found.get(_PROJECT, project_id) == project_id else None

    def create_snapshot(self, volume_id: str, wanted: Document) -> Document:
        """Has block storage take a snapshot of a volume that may be attached; returns it. ``wanted``: name, description,
        metadata."""
        body = {"snapshot": {"volume_id": volume_id, "force": True, **wanted}}
        found: Document = self._call("POST", "/snapshots", body)["snapshot"]
        return found

    def snapshot_labelled(self, volume_id: str, key: str, value: str) -> Document | None:
        """Returns the snapshot of a volume whose metadata says so, or None."""
        return next((each for each in self.snapshots_of(volume_id) if each["metadata"].get(key) == value), None)

    def explain_deletion(self, snapshot_id: str) -> Document:
        """Returns what the deletion of a snapshot would do and copy. Raises NotFound."""
        found: Document = self._call("GET", f"/snapshots/{snapshot_id}?explain=1")["snapshot"]["deletion"]
        return found

    def being_deleted(self) -> set[str]:
        """Returns the ids of volumes a snapshot of which is being deleted."""
        found = listing.whole(self._get, f"/snapshots/detail?all_tenants=1&status=deleting&limit={MOST_ON_A_PAGE}", "snapshots")
        return {snapshot["volume_id"] for snapshot in found}

    def snapshots_in_deletion(self) -> set[str]:
        """Returns the ids of the snapshots that are being deleted, of all projects."""
        found = listing.whole(self._get, f"/snapshots?all_tenants=1&status=deleting&limit={MOST_ON_A_PAGE}", "snapshots")
        return {snapshot["id"] for snapshot in found}

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Begins to delete a snapshot. Raises NotFound, Conflict, ServiceUnavailable."""
        self._call("DELETE", f"/snapshots/{snapshot_id}")

"""A check on a timer: it compares what libvirt has with what block storage records and logs what differs. It changes two
things: a detachment that the guest carried out after we had stopped waiting is finished, and a secret that no server needs is
removed."""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile

from sqlalchemy import Connection

from stillframe.compute.clients.block_storage import Document
from stillframe.compute.libvirt import saved_notes, servers
from stillframe.compute.libvirt.connections import kinds as connections
from stillframe.compute.libvirt.domain_xml import Disk
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.operations import attachments
from stillframe.compute.operations.attachments import DetachVolume
from stillframe.compute.periodic import secrets
from stillframe.compute.worker.context import WorkerContext
from stillframe.context import new_request_id
from stillframe.db import operations
from stillframe.db.tables import now
from stillframe.errors import HypervisorUnavailable, NotFound, ServiceUnavailable, StillframeError
from stillframe.journal import record
from stillframe.journal.about import about

LOG = logging.getLogger(__name__)
EVERY_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 86400.0


class Reconciler:
    """Compares every server once a minute and logs each difference once."""

    def __init__(self, worker: WorkerContext) -> None:
        self._worker = worker
        self._due = 0.0
        self._logged: set[str] = set()

    def look(self) -> None:
        """Logs each new difference. A service that does not answer is not a difference."""
        try:
            saved_notes.look(self._worker.hypervisor, self._worker.settings.state_dir)
        except StillframeError as error:
            LOG.info("saved servers were not looked at: %s", error.message)
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + EVERY_SECONDS
        try:
            secrets.look(self._worker)
        except StillframeError as error:
            LOG.info("secrets were not looked at: %s", error.message)
        try:
            found = {line for server in servers.list_everything(self._worker) for line in self._looked_at(server)}
        except StillframeError as error:
            LOG.info("servers were not compared: %s", error.message)
            return
        for line in sorted(found - self._logged):
            LOG.error("%s", line)
        self._logged = found

    def _looked_at(self, server: Server) -> list[str]:
        """A failure at one server does not stop the check of the others; a service that does not answer does, because it would
        fail for each."""
        try:
            return self._differences(server)
        except (HypervisorUnavailable, ServiceUnavailable):
            raise
        except StillframeError as error:
            LOG.warning("server %s was not compared: %s", server.id, error.message)
            return []

    def _differences(self, server: Server) -> list[str]:
        with self._worker.database.read() as connection:
            if operations.on_resource(connection, f"server:{server.id}") is not None:
                return []
        entries = [
            entry
            for entry in self._worker.storage.attachments_of(server.id, server.project_id)
            if entry["status"] == "attached"
        ]
        self._finish_late_detachments(server, entries)
        self._report_missing(server, entries)
        recorded = {entry["volume_id"]: entry["connection_info"] for entry in entries}
        held = dict(server.volumes())
        lines = [
            f"server {server.id} has {disk.words} for volume {volume_id}, block storage records {other}"
            for volume_id, disk in held.items()
            if (other := _other(disk, recorded.get(volume_id)))
        ]
        lines += [
            f"the saved memory of server {server.id} belongs to {disk.words} for volume {disk.volume_id}, block storage"
            f" records {other}: it must not be restored"
            for disk in (server.saved.disks if server.saved else ())
            if (other := _other(disk, recorded.get(str(disk.volume_id))))
        ]
        lines += [f"server {server.id} has volume {one}, which is not attached to it" for one in held.keys() - recorded]
        lines += [f"volume {one} is attached to server {server.id}, which lacks it" for one in recorded.keys() - held]
        return lines

    def _report_missing(self, server: Server, entries: Sequence[Document]) -> None:
        """Block storage shows of each attachment whether the running guest has been seen without the disk; it is told when
        that changes. What was attached after the server was looked at is missing in that look alone: it is looked at again."""
        changed = [each for each in entries if _lacks(server, each) != bool(each.get("missing_in_guest_since"))]
        if not changed:
            return
        with suppress(NotFound):
            fresh = servers.look(self._worker, server.id)
            with self._worker.database.read() as connection:
                if operations.on_resource(connection, f"server:{server.id}") is not None:
                    return
            for entry in changed:
                if _lacks(fresh, entry) != bool(entry.get("missing_in_guest_since")):
                    self._worker.storage.report_guest_disk(entry["id"], not _lacks(fresh, entry))

    def _finish_late_detachments(self, server: Server, entries: Sequence[Document]) -> None:
        """QEMU carries out an unplug that the guest did not answer when the guest answers after all, at a reset at the latest
        (qemu 7.2). By then we had stopped waiting for the detachment. It is requested again, finds the disk gone and releases
        the volume."""
        for entry in entries:
            volume_id = entry["volume_id"]
            if not _lacks(server, entry):
                continue
            with self._worker.database.write() as connection:
                if not _was_abandoned(connection, server.id, volume_id):
                    continue
                asked = DetachVolume(server_id=server.id, volume_id=volume_id)
                record.submit(connection, attachments.request(asked, new_request_id()).of(server.project_id))
            LOG.info(
                "server %s released volume %s after the wait for it had ended; the volume is detached now",
                server.id,
                volume_id,
            )


def _other(disk: Disk, info: Document | None) -> str | None:
    """Returns what block storage records where that is not the disk; a way to connect that is not known is not compared."""
    if not info or info.get("driver_volume_type", "local") not in connections.KINDS:
        return None
    connection = connections.of(info)
    return None if connection.is_same(disk, info) else connection.recorded(info)


def _lacks(server: Server, entry: Document) -> bool:
    """Tells whether the guest runs without the disk of the attachment. One that does not run has none."""
    return server.view.active and not any(disk.volume_id == entry["volume_id"] for disk in server.live.disks)


def _was_abandoned(connection: Connection, server_id: str, volume_id: str) -> bool:
    """Tells whether the last thing that was asked about the volume at the server is a detachment that failed. One that keeps
    failing is requested less and less often, in the end once a day."""
    if operations.on_resource(connection, f"server:{server_id}") is not None:
        return False
    rows = operations.newest_on(connection, f"server:{server_id}", tuple(attachments.KINDS))
    asked = [row for row in rows if about(row["intent"]).volume_id == volume_id]
    failed = list(takewhile(lambda row: (row["kind"], row["state"]) == ("detach_volume", "undone"), asked))
    if len(failed) < 2:
        return bool(failed)
    pause = min(EVERY_SECONDS * 2 ** min(len(failed), 20), LONGEST_PAUSE_SECONDS)
    return bool((now() - failed[0]["created_at"]).total_seconds() >= pause)

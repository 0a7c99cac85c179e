"""Compares servers with rows: which file each one has, now and after a restart, and whether it may be frozen. Pure."""

from collections.abc import Iterator, Sequence

from stillframe.chain import names
from stillframe.volumes.recovery.doctor.findings import Finding
from stillframe.volumes.recovery.doctor.seen import DiskSeen, ServerSeen, WorkerContext


def judge(worker: WorkerContext) -> Iterator[Finding]:
    """Yields what does not fit between libvirt, the freeze records and the rows."""
    recorded = {freeze.server_id for freeze in worker.guests.freezes}
    for freeze in worker.guests.freezes:
        if freeze.overdue or freeze.operation_id not in worker.known.running:
            what = f"server {freeze.server_id} may still be frozen, since operation {freeze.operation_id}"
            yield Finding("maybe_frozen", what, server_id=freeze.server_id)
    for server in worker.guests.servers:
        if server.frozen and server.id not in recorded:
            what = f"the agent of server {server.id} ({server.name}) says that its filesystems are frozen"
            yield Finding("guest_frozen", what, server_id=server.id)
        if server.id not in worker.known.busy:
            yield from _disks(worker, server)
    if worker.guests.listed:
        yield from _gone(worker)


def _gone(worker: WorkerContext) -> Iterator[Finding]:
    """Yields attachments to servers that libvirt does not know. This host's libvirt does not know servers of other hosts."""
    known_here = {server.id for server in worker.guests.servers}
    for volume_id, known in worker.known.volumes.items():
        for row in known.attachments:
            host = (row["connector"] or {}).get("host", worker.host)
            if row["instance_id"] in known_here or not row["instance_id"] or host != worker.host:
                continue
            if row["instance_id"] in worker.known.busy or volume_id in worker.unsettled:
                continue
            what = f"volume {volume_id} is attached to server {row['instance_id']}, which libvirt on {host} does not know"
            what += f" (attachment {row['id']}, {row['status']})"
            facts = {"attachment": row}
            yield Finding("server_gone", what, known.row["share"], volume_id, server_id=row["instance_id"], facts=facts)


def _disks(worker: WorkerContext, server: ServerSeen) -> Iterator[Finding]:
    if server.inactive is not None:
        yield from _descriptions(worker, server, server.inactive)
    yield from _saved(worker, server)
    yield from _formats(worker, server)
    held = {disk.volume_id: disk for disk in (*server.disks, *(server.inactive or ())) if _is_ours(worker, server, disk)}
    held |= {disk.volume_id: disk for disk in server.disks if _is_ours(worker, server, disk)}
    for volume_id, disk in held.items():
        assert volume_id is not None
        known = worker.known.volumes[volume_id]
        if not _is_scratch(worker, disk) and disk.name not in (None, known.row["active_file"]):
            what = f"server {server.id} has {disk.name} as {disk.target} for volume {volume_id}, recorded is"
            what += f" {known.row['active_file']}"
            yield Finding("wrong_active_file", what, known.row["share"], volume_id, file=disk.name, server_id=server.id)
        if not any(row["instance_id"] == server.id for row in known.attachments):
            what = f"server {server.id} has volume {volume_id} as {disk.target}, and there is no attachment"
            yield Finding("disk_without_attachment", what, known.row["share"], volume_id, server_id=server.id)
    if server.running and server.inactive is not None:
        yield from _left(worker, server)
    for volume_id, known in worker.known.volumes.items():
        attached = [row for row in known.attachments if row["instance_id"] == server.id and row["status"] == "attached"]
        if attached and volume_id not in held and volume_id not in worker.unsettled:
            what = f"volume {volume_id} is attached to server {server.id}, which has no such disk"
            yield Finding("attached_without_disk", what, known.row["share"], volume_id, server_id=server.id)


def _saved(worker: WorkerContext, server: ServerSeen) -> Iterator[Finding]:
    """Yields saved servers that would open wrong files: a start uses the description in the saved image, not the definition."""
    defined = {disk.target: disk.path for disk in (server.inactive or server.disks)}
    for disk in server.saved or ():
        if not _is_ours(worker, server, disk) or _is_scratch(worker, disk):
            continue
        row = worker.known.volumes[str(disk.volume_id)].row
        if disk.name in (None, row["active_file"]) and disk.path == defined.get(disk.target):
            continue
        what = f"the saved memory of server {server.id} ({server.name}) belongs to {disk.path} as {disk.target} for volume"
        what += f" {disk.volume_id}; its definition names {defined.get(disk.target) or 'nothing'}, recorded is"
        what += f" {row['active_file']}"
        yield Finding("saved_names_other_file", what, row["share"], disk.volume_id, file=disk.name, server_id=server.id)


def _formats(worker: WorkerContext, server: ServerSeen) -> Iterator[Finding]:
    """Yields active files that a description calls by another format than the recorded one."""
    described = {"now": server.disks, "at its next start": server.inactive or (), "when it is restored": server.saved or ()}
    for when, disk in ((when, disk) for when, disks in described.items() for disk in disks):
        if disk.format is None or not _is_ours(worker, server, disk):
            continue
        row = worker.known.volumes[str(disk.volume_id)].row
        if disk.name == row["active_file"] and disk.format != row["format"]:
            what = f"server {server.id} ({server.name}) reads {disk.name}, its disk {disk.target}, as {disk.format} {when};"
            what += f" recorded is {row['format']}"
            yield Finding("wrong_disk_format", what, row["share"], disk.volume_id, file=disk.name, server_id=server.id)


def _left(worker: WorkerContext, server: ServerSeen) -> Iterator[Finding]:
    """Yields disks that the definition has and the running guest has not."""
    live = {disk.volume_id for disk in server.disks}
    for disk in server.inactive or ():
        if disk.volume_id not in live and _is_ours(worker, server, disk):
            what = f"disk {disk.target} of server {server.id} (volume {disk.volume_id}) is in its definition, but the running"
            what += " guest does not have it"
            share = worker.known.volumes[str(disk.volume_id)].row["share"]
            yield Finding("disk_left_guest", what, share, disk.volume_id, file=disk.name, server_id=server.id)


def _is_scratch(worker: WorkerContext, disk: DiskSeen) -> bool:
    """Such a disk is judged with its overlay."""
    return disk.path in worker.guests.scratch_paths


def _is_ours(worker: WorkerContext, server: ServerSeen, disk: DiskSeen) -> bool:
    known = worker.known.volumes.get(disk.volume_id or "")
    if known is None or disk.volume_id in worker.unsettled:
        return False
    if disk.name is None or names.parse(disk.name) is not None or disk.name == known.row["base_file"]:
        return True
    # Only the serial names the volume, and a copied domain keeps it: without an attachment it is not our disk.
    return any(row["instance_id"] == server.id for row in known.attachments)


def _descriptions(worker: WorkerContext, server: ServerSeen, inactive: Sequence[DiskSeen]) -> Iterator[Finding]:
    later = {disk.target: disk for disk in inactive}
    for disk in server.disks:
        other = later.get(disk.target)
        if disk.volume_id in worker.unsettled or (other is not None and other.path == disk.path):
            continue
        if disk.volume_id in worker.known.volumes:
            then = (other.name or other.path) if other else "nothing"
            what = (
                f"disk {disk.target} of server {server.id} is {disk.name or disk.path} now and would be {then} after a restart"
            )
            yield Finding("descriptions_differ", what, None, disk.volume_id, file=disk.name, server_id=server.id)

"""Targets that give volumes out to others than their attachments name, or not at all. Pure."""

from collections.abc import Iterator, Sequence

from stillframe.db.rows import AttachmentRow
from stillframe.volumes.recovery.doctor.findings import Finding
from stillframe.volumes.recovery.doctor.seen import ShareSeen, WorkerContext


def judge(worker: WorkerContext, share: ShareSeen) -> Iterator[Finding]:
    """Yields what does not fit between the attachments and the targets of a share; nothing where targets could not be seen."""
    if share.targets is None:
        return
    wanted = {
        volume_id: held
        for volume_id, known in worker.known.volumes.items()
        if known.row["share"] == share.export and (held := [row for row in known.attachments if row["connector"]])
    }
    for volume_id, target in share.targets.items():
        if volume_id not in worker.unsettled and volume_id not in wanted:
            users = f"; connected to it: {', '.join(target.sessions)}" if target.sessions else ""
            what = f"target {target.name} gives {target.file} on {share.export} out, which no attachment asks for{users}"
            yield Finding("orphan_target", what, share.export, volume_id, file=target.file)
    for volume_id, held in wanted.items():
        if volume_id not in worker.unsettled and not _is_given(worker, share, volume_id, held[0]):
            what = f"volume {volume_id} is attached (attachment {held[0]['id']}), and no target gives it out as that says"
            yield Finding("missing_target", what, share.export, volume_id, server_id=held[0]["instance_id"])
        if volume_id not in worker.unsettled and (others := _strangers(share, volume_id, held)):
            target = (share.targets or {})[volume_id]
            what = f"connected to target {target.name} of volume {volume_id}: {', '.join(others)}, which no attachment names"
            yield Finding("foreign_session", what, share.export, volume_id, file=target.file)


def _strangers(share: ShareSeen, volume_id: str, held: Sequence[AttachmentRow]) -> list[str]:
    """Returns the sessions of initiators that have no attachment."""
    target = (share.targets or {}).get(volume_id)
    known = {(row["connector"] or {}).get("initiator") for row in held}
    return [session for session in (target.sessions if target else ()) if session.partition(" ")[0] not in known]


def _is_given(worker: WorkerContext, share: ShareSeen, volume_id: str, held: AttachmentRow) -> bool:
    target = (share.targets or {}).get(volume_id)
    if target is None:
        return False
    active = worker.known.volumes[volume_id].row["active_file"]
    return target.file == active and list(target.initiators) == [(held["connector"] or {}).get("initiator")]

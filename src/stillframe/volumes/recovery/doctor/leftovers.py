"""Files that no row accounts for: temporary files, trash, orphans, volumes of others; and wrong modes. Pure."""

import re
from collections.abc import Iterator

from stillframe.chain import names
from stillframe.volumes.recovery.doctor.findings import Finding
from stillframe.volumes.recovery.doctor.seen import ShareSeen, VolumeKnown, WorkerContext

MODE = 0o660
QUARANTINE = ".orphan."
_TEMPORARY = (".tmp.", ".trash.")
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_DOCUMENT = re.compile(rf"volume-({_UUID.pattern})\.(info|record)")


def judge(worker: WorkerContext, share: ShareSeen) -> Iterator[Finding]:
    """Yields what lies on the share and belongs to no row."""
    yield from _temporaries(worker, share)
    yield from _orphans(worker, share)
    yield from _unknown(worker, share)
    yield from _foreign(worker, share)
    yield from _modes(worker, share)


def owner(name: str) -> str | None:
    """The volume a name on a share belongs to: a chain file's, a document's, a temporary's or trash's; None for others."""
    parsed = names.parse(name)
    if parsed is not None:
        return parsed[0]
    if document := _DOCUMENT.fullmatch(name):
        return document[1]
    found = _UUID.search(name) if name.startswith((*_TEMPORARY, QUARANTINE)) else None
    return found[0] if found else None


def is_document(name: str) -> bool:
    return _DOCUMENT.fullmatch(name) is not None


def quarantined(share: ShareSeen) -> list[str]:
    """Names of the orphans an earlier repair put aside."""
    return [name for name in share.entries if name.startswith(QUARANTINE)]


def needed(worker: WorkerContext, share: ShareSeen) -> set[str]:
    """Every file some row names, and every file below one of those."""
    pending = list(named_by_rows(worker, share))
    found: set[str] = set()
    while pending:
        name = pending.pop()
        if name in share.files and name not in found:
            found.add(name)
            pending += [below for below in (share.files[name].names,) if below]
    return found


def named_by_rows(worker: WorkerContext, share: ShareSeen) -> set[str]:
    """Every file some row names, there or not."""
    mine = [known for known in worker.known.volumes.values() if known.row["share"] == share.export]
    return {name for known in mine for name in _named(known)}


def _named(known: VolumeKnown) -> list[str]:
    linked = known.row["linked_to"]
    found = [known.row["active_file"], known.row["undo_file"], linked["file"] if linked else None]
    found += [name for snapshot in known.snapshots for name in (snapshot["overlay"], snapshot["backing"])]
    found += [*known.holds.values(), *known.linked]
    return [name for name in found if name]


def _temporaries(worker: WorkerContext, share: ShareSeen) -> Iterator[Finding]:
    at_work = worker.known.busy | worker.known.parked | worker.unsettled
    for name, entry in share.entries.items():
        if not name.startswith(_TEMPORARY) or worker.now - entry.changed < worker.older_than:
            continue
        if share.adopted and owner(name) is None:
            continue  # the directory was somebody's before it was a share, and may hold temporary files of other programs
        if at_work.isdisjoint(_UUID.findall(name)):
            what = f"{name} on {share.export} is left over: {entry.allocated} bytes, untouched for more than the time given"
            yield Finding("old_temporary", what, share.export, owner(name), file=name, facts={"bytes": entry.allocated})


def _orphans(worker: WorkerContext, share: ShareSeen) -> Iterator[Finding]:
    wanted = needed(worker, share)
    for name in sorted([*share.files, *(name for name in share.entries if is_document(name))]):
        if name in share.adopted:
            continue  # whatever becomes of its volume, it was there before
        volume_id = owner(name)
        if volume_id in worker.unsettled or volume_id not in worker.known.lived | set(worker.known.volumes):
            continue
        has_row = volume_id in worker.known.volumes
        if name in wanted or (is_document(name) and has_row):
            continue
        entry = share.entries[name]
        why = "no row of its volume names it" if has_row else "its volume was deleted or never made"
        what = f"{name} on {share.export} is an orphan: {why}; it takes {entry.allocated} bytes"
        yield Finding("orphan_file", what, share.export, volume_id, file=name)


def _unknown(worker: WorkerContext, share: ShareSeen) -> Iterator[Finding]:
    found: dict[str, list[str]] = {}
    wanted = needed(worker, share)
    for name in share.files:
        volume_id = owner(name)
        if volume_id is not None and volume_id not in worker.known.volumes and volume_id not in worker.known.lived:
            found.setdefault(volume_id, []).append(name)
    for volume_id, files in found.items():
        if volume_id not in worker.unsettled:
            used = [name for name in files if name in wanted]
            more = f"; {used[0]} is read by a volume of ours" if used else ""
            what = f"{len(files)} files of volume {volume_id} lie on {share.export}, and there is no row of it{more}"
            yield Finding("unknown_volume", what, share.export, volume_id, file=files[0], facts={"files": files})


def _foreign(worker: WorkerContext, share: ShareSeen) -> Iterator[Finding]:
    """Yields files that no volume of ours has and that are based on a file that a row needs. A file that was or will be put
    aside is reported as an orphan."""
    wanted = needed(worker, share)
    for name, readers in share.readers.items():
        volume_id = owner(name)
        if name not in wanted or volume_id in worker.unsettled:
            continue
        for other in readers:
            if not other.startswith(QUARANTINE) and owner(other) not in worker.known.lived:
                what = f"{other} on {share.export} is no file of a volume of this database, and is based on {name}"
                yield Finding("foreign_reader", what, share.export, volume_id, file=other)


def _modes(worker: WorkerContext, share: ShareSeen) -> Iterator[Finding]:
    wanted, adopted = needed(worker, share), set(share.adopted.values())
    for name, entry in share.entries.items():
        if name in share.adopted or owner(name) in adopted or (adopted and name == ".share-id"):
            continue  # the base has its owner's mode, and the rest is like it
        ours = name == ".share-id" or name in wanted or (is_document(name) and owner(name) in worker.known.volumes)
        if ours and entry.regular and entry.mode != MODE and owner(name) not in worker.unsettled:
            what = f"{name} on {share.export} has mode {entry.mode:04o}, not {MODE:04o}"
            yield Finding("wrong_mode", what, share.export, owner(name), file=name, facts={"mode": entry.mode})

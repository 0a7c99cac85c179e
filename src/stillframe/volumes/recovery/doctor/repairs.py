"""From findings to a plan of repairs, each proven safe by what was seen; the rest with the reason why not. Pure.

A repair is safe if it changes no byte that anybody reads and can be reversed, or if it removes something that nobody can ask
for again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stillframe.volumes.recovery.doctor import leftovers
from stillframe.volumes.recovery.doctor.findings import Finding
from stillframe.volumes.recovery.doctor.leftovers import MODE, QUARANTINE
from stillframe.volumes.recovery.doctor.seen import ShareSeen, WorkerContext

_CHAIN = (
    "row_without_file",
    "missing_file",
    "unsafe_file",
    "wrong_backing",
    "wrong_backing_format",
    "snapshot_not_behind",
    "wrong_size",
    "corruption",
    "descriptions_differ",
    "wrong_active_file",
    "wrong_disk_format",
    "saved_names_other_file",
)
# Locks are released first; a mode is set before a document of it is written anew.
_ORDER = (
    "release",
    "release_attachment",
    "set_available",
    "set_mode",
    "write_document",
    "repair_counts",
    "free_leaks",
    "quarantine",
    "remove",
    "remove_scratch",
)


@dataclass(frozen=True)
class Repair:
    """One repair. ``says`` is what it does, for people; ``volumes`` are those held meanwhile."""

    verb: str
    finding: Finding
    says: str
    volumes: Sequence[str] = ()
    args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str | None, str | None]:
        """The same repair in another plan."""
        return self.verb, self.finding.share, self.finding.file or str(self.args.get("id"))


@dataclass(frozen=True)
class Plan:
    """What is repaired, in this order, and what is not, with the reason."""

    repairs: Sequence[Repair]
    refused: Sequence[tuple[Finding, str]]


class Unproven(Exception):
    """Why a repair is not proven safe; never leaves this module."""


def plan(worker: WorkerContext, findings: Sequence[Finding]) -> Plan:
    """Returns the repairs of everything that can be repaired. Findings of other kinds are in neither list."""
    repairs: list[Repair] = []
    refused: list[tuple[Finding, str]] = []
    broken = {finding.volume_id for finding in findings if finding.kind in _CHAIN}
    for finding in _tops_first(worker, findings):
        make = _MAKE.get(finding.kind)
        if make is None:
            continue
        try:
            _check_free(worker, finding)
            if finding.kind in ("info_differs", "record_differs") and finding.volume_id in broken:
                raise Unproven("the files do not agree with the rows")
            repairs.append(make(worker, finding))
        except Unproven as why:
            refused.append((finding, str(why)))
    read = _still_read(repairs)
    refused += read
    kept = [repair for repair in repairs if all(repair.finding is not finding for finding, _why in read)]
    return Plan(sorted(kept, key=lambda repair: _ORDER.index(repair.verb)), refused)


def _still_read(repairs: Sequence[Repair]) -> list[tuple[Finding, str]]:
    """Returns orphans that are still named by a file that is not removed before them. The topmost come first."""
    moved: set[str | None] = set()
    found = []
    for repair in repairs:
        if repair.verb == "quarantine":
            staying = [name for name in repair.args["read_by"] if name not in moved]
            if staying:
                found.append((repair.finding, f"the header of {staying[0]} names it"))
            else:
                moved.add(repair.finding.file)
    return found


def _tops_first(worker: WorkerContext, findings: Sequence[Finding]) -> list[Finding]:
    """An overlay before what it is backed by."""
    return sorted(findings, key=lambda finding: -_depth(worker, finding))


def _depth(worker: WorkerContext, finding: Finding) -> int:
    share = worker.share(finding.share or "")
    if finding.kind != "orphan_file" or share is None:
        return 0
    seen: list[str] = []
    name: str | None = finding.file
    while name is not None and name in share.files and name not in seen:
        seen.append(name)
        name = share.files[name].names
    return len(seen)


def _check_free(worker: WorkerContext, finding: Finding) -> None:
    if finding.kind != "abandoned_repair" and finding.volume_id in worker.known.parked | worker.known.busy:
        raise Unproven("an operation on the volume has not ended")


def _share(worker: WorkerContext, finding: Finding) -> ShareSeen:
    share = worker.share(finding.share or "")
    assert share is not None
    return share


def _check_unnamed(worker: WorkerContext, finding: Finding) -> None:
    """I4: no description of a server names the file."""
    if not worker.guests.complete:
        raise Unproven(f"whether a server names it is not known: {worker.guests.why}")
    if finding.file in worker.guests.mentioned:
        raise Unproven("a server's description names it")


def _remove(worker: WorkerContext, finding: Finding) -> Repair:
    _check_unnamed(worker, finding)
    share, name = _share(worker, finding), str(finding.file)
    original = name.removeprefix(".trash.")
    wanted = leftovers.named_by_rows(worker, share) | {seen.names for seen in share.files.values()}
    if original != name and original not in share.files and original in wanted:
        raise Unproven(f"{original}, whose content it holds, is missing and asked for")
    if share.readers.get(name):
        raise Unproven(f"the header of {share.readers[name][0]} names it")
    volumes = [finding.volume_id] if finding.volume_id else []
    return Repair("remove", finding, f"remove {name} ({finding.facts['bytes']} bytes)", volumes)


def _set_mode(_worker: WorkerContext, finding: Finding) -> Repair:
    volumes = [finding.volume_id] if finding.volume_id else []
    was = finding.facts["mode"]
    return Repair("set_mode", finding, f"chmod {MODE:04o} {finding.file} (was {was:04o})", volumes, {"was": was, "mode": MODE})


def _leaks(worker: WorkerContext, finding: Finding) -> Repair:
    says = f"give back what leaked in {finding.file} (qemu-img check -r leaks)"
    return Repair("free_leaks", finding, says, _free_readers(worker, finding), {"format": "qcow2"})


def _counts(worker: WorkerContext, finding: Finding) -> Repair:
    seen = _share(worker, finding).files[str(finding.file)]
    if not seen.dirty:
        raise Unproven("what else is damaged would be guessed at")
    if seen.damage is not None:
        raise Unproven(f"it is damaged beyond its reference counts: {seen.damage}")
    if seen.bitmaps:
        raise Unproven(f"the bitmaps {', '.join(seen.bitmaps)} have to be removed first")
    says = f"repair the reference counts of {finding.file} (qemu-img check -r all)"
    return Repair("repair_counts", finding, says, _free_readers(worker, finding), {"format": "qcow2"})


def _free_readers(worker: WorkerContext, finding: Finding) -> list[str]:
    """The volumes that are held while the file is repaired. Raises Unproven unless nobody has it open or may open it soon."""
    if _share(worker, finding).files[str(finding.file)].locked:
        raise Unproven("a program has it open")
    readers = _readers(worker, str(finding.volume_id))
    for volume_id in readers:
        status = worker.known.volumes[volume_id].row["status"]
        if status != "available":
            raise Unproven(f"volume {volume_id}, which reads it, is {status!r}: its server could be started meanwhile")
    return readers


def _readers(worker: WorkerContext, volume_id: str) -> list[str]:
    """The volume and every linked one that reads a file of it, or of one of those."""
    found = [volume_id]
    for reader in found:
        known = worker.known.volumes[reader]
        found += [clone for clones in known.linked.values() for clone in clones if clone not in found]
    return found


def _write(_worker: WorkerContext, finding: Finding) -> Repair:
    document, text = finding.facts["document"], finding.facts["text"]
    says = f"write {finding.file} from the rows" if document else f"remove {finding.file}, the volume has no snapshot"
    return Repair("write_document", finding, says, [str(finding.volume_id)], {"document": document, "was": text})


def _quarantine(worker: WorkerContext, finding: Finding) -> Repair:
    _check_unnamed(worker, finding)
    share, name = _share(worker, finding), str(finding.file)
    if name in share.files and share.files[name].locked:
        raise Unproven("a program has it open")
    aside = f"{QUARANTINE}{name}"
    if aside in share.entries:
        raise Unproven(f"{aside} is there already")
    read_by = {other: None for other, seen in share.files.items() if seen.names == name} | dict.fromkeys(
        share.readers.get(name, ())
    )
    volumes = [str(finding.volume_id)]
    return Repair("quarantine", finding, f"rename {name} to {aside}", volumes, {"to": aside, "read_by": list(read_by)})


def _release(_worker: WorkerContext, finding: Finding) -> Repair:
    operation = finding.facts["operation"]
    return Repair("release", finding, f"release what operation {operation} holds", (), {"id": operation})


def _release_attachment(worker: WorkerContext, finding: Finding) -> Repair:
    """Proof that the server is gone: no description of one names a file of the volume, and nobody has one open."""
    held, volume_id = finding.facts["attachment"], str(finding.volume_id)
    share = worker.share(finding.share or "")
    if share is None or not share.is_itself:
        raise Unproven("the share of the volume was not looked at")
    if not worker.guests.complete:
        raise Unproven(f"whether a server names it is not known: {worker.guests.why}")
    own = [name for name in share.files if leftovers.owner(name) == volume_id]
    for name in own:
        if name in worker.guests.mentioned:
            raise Unproven(f"a server's description names {name}")
        if share.files[name].locked:
            raise Unproven(f"a program has {name} open")
    says = f"release volume {volume_id} from server {finding.server_id} (attachment {held['id']})"
    return Repair("release_attachment", finding, says, [volume_id], {"id": held["id"], "files": own})


def _set_available(_worker: WorkerContext, finding: Finding) -> Repair:
    row = finding.facts["set"]
    volumes = [entry["volume_id"] for entry in row["volumes"]]
    return Repair("set_available", finding, f"set assisted snapshot {row['id']} to available", volumes, {"id": row["id"]})


def _remove_scratch(worker: WorkerContext, finding: Finding) -> Repair:
    _check_unnamed(worker, finding)
    seen = finding.facts["scratch"]
    if seen.left.holds_data:
        raise Unproven("what was written to it may be nowhere else")
    if seen.left.programs:
        raise Unproven(f"{seen.left.programs[0]} has it open")
    volumes = [str(finding.volume_id)] if finding.volume_id in worker.known.volumes else []
    return Repair("remove_scratch", finding, f"remove {seen.path}, to which nothing was written", volumes)


_MAKE: Mapping[str, Callable[[WorkerContext, Finding], Repair]] = {
    "old_temporary": _remove,
    "wrong_mode": _set_mode,
    "leaked_clusters": _leaks,
    "unsound_file": _counts,
    "info_differs": _write,
    "record_differs": _write,
    "orphan_file": _quarantine,
    "abandoned_repair": _release,
    "server_gone": _release_attachment,
    "set_is_good": _set_available,
    "scratch_left": _remove_scratch,
}

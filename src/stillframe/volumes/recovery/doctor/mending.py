"""Carries out a plan of repairs: each under a lock, checked again right before, and written into the undo log."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillframe.config import Settings
from stillframe.db import volumes
from stillframe.db.engine import Database
from stillframe.errors import ChainConflict, StillframeError
from stillframe.host import entries, files, qemu_img, scratch, soundness, users, workdir
from stillframe.journal.failpoints import reached
from stillframe.volumes.recovery.doctor import holding, row_repairs
from stillframe.volumes.recovery.doctor.looking import volume_known
from stillframe.volumes.recovery.doctor.repairs import Plan, Repair
from stillframe.volumes.recovery.doctor.seen import ShareSeen, WorkerContext
from stillframe.volumes.recovery.doctor.undo_log import UndoLog, as_text


@dataclass(frozen=True)
class Mended:
    """How one repair ended: ``trouble`` None when it was done."""

    repair: Repair
    trouble: str | None = None


@dataclass(frozen=True)
class Place:
    """Where repairs are made: the database, whose host this is, and what was seen last."""

    database: Database
    settings: Settings
    worker: WorkerContext

    def share(self, repair: Repair) -> ShareSeen:
        found = self.worker.share(repair.finding.share or "")
        assert found is not None
        return found


def mend(place: Place, plan: Plan, log: UndoLog) -> Iterator[Mended]:
    """Carries out one repair after the other; one that is not possible any more is reported and skipped."""
    for repair in plan.repairs:
        try:
            _one(place, repair, log)
        except (StillframeError, OSError) as error:
            yield Mended(repair, error.message if isinstance(error, StillframeError) else str(error))
        else:
            yield Mended(repair)


def _one(place: Place, repair: Repair, log: UndoLog) -> None:
    if repair.verb == "release":
        holding.release(place.database, repair.args["id"])
        return
    intent = {"says": repair.says, "volume_id": repair.finding.volume_id}
    with holding.held(place.database, place.settings.host, repair.volumes, intent):
        _check_unchanged(place, repair)
        if repair.verb in row_repairs.VERBS:
            row_repairs.VERBS[repair.verb](place.database, repair, place.worker.share(repair.finding.share or ""))
            return
        if repair.verb == "remove_scratch":  # it holds nothing that could be put back
            scratch.remove_empty(repair.finding.facts["scratch"].directory, str(repair.finding.file))
            return
        share = place.share(repair)
        name = str(repair.finding.file)
        number = log.begin(repair, share)
        reached(f"doctor/{repair.verb}/before")
        try:
            _VERBS[repair.verb](share.path, name, repair.args)
            reached(f"doctor/{repair.verb}/effect")
        except (StillframeError, OSError) as error:
            log.end(number, f"failed: {error}")
            raise
        log.end(number, "done")


def _check_unchanged(place: Place, repair: Repair) -> None:
    """The rows are still those the plan was made from; nothing can change them while we hold the volume."""
    for volume_id in repair.volumes:
        with place.database.read() as connection:
            row = volumes.get(connection, volume_id, None)
            fresh = volume_known(connection, row) if row is not None else None
        if fresh != place.worker.known.volumes.get(volume_id):
            raise ChainConflict(f"volume {volume_id} changed since it was looked at; run the doctor again")


def _refuse_open(path: Path, name: str) -> None:
    seen = users.identity(path / name)
    if files.is_locked(path, name) or (seen is not None and users.programs([seen])):
        raise ChainConflict(f"a program has {name} open")


def _remove(path: Path, name: str, _args: Mapping[str, Any]) -> None:
    with workdir.where(path, name) as place, files.seen(place, name) as handle:
        entry = entries.look(path).get(name)
        if entry is not None and entry.regular and entry.links == 1:  # of two names one may go, whoever has the file open
            _refuse_open(place, name)
        files.remove(place, name, handle)


def _set_mode(path: Path, name: str, args: Mapping[str, Any]) -> None:
    entries.set_mode(path, name, args["mode"])


def _free_leaks(path: Path, name: str, args: Mapping[str, Any]) -> None:
    _refuse_open(path, name)
    qemu_img.repair_leaks(path, name, args["format"])


def _repair_counts(path: Path, name: str, args: Mapping[str, Any]) -> None:
    _refuse_open(path, name)
    soundness.repair(path, name, args["format"])


def _quarantine(path: Path, name: str, args: Mapping[str, Any]) -> None:
    entry = entries.look(path).get(name)
    if entry is not None and entry.regular and entry.links == 1:
        _refuse_open(path, name)
    files.rename_new(path, name, args["to"])


def _write_document(path: Path, name: str, args: Mapping[str, Any]) -> None:
    if args["document"]:
        entries.write_text(path, name, as_text(args["document"]))
    else:
        files.remove(path, name)


_VERBS: Mapping[str, Callable[[Path, str, Mapping[str, Any]], None]] = {
    "remove": _remove,
    "set_mode": _set_mode,
    "free_leaks": _free_leaks,
    "repair_counts": _repair_counts,
    "quarantine": _quarantine,
    "write_document": _write_document,
}

"""The steps of a chain's plan, done offline through qemu-img: for each how to tell that it is done, how to do it, and how to
undo it.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypedDict, TypeVar

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.chain.steps import Clone, Commit, CreateOverlay, Pull, Record, Rename, Repoint, Resize, Trash
from stillframe.db import snapshots
from stillframe.errors import ChainConflict, Conflict, ServiceUnavailable
from stillframe.journal.operation import Document, NotYet, Operation, Told, Verb
from stillframe.journal.typed import Args, Step
from stillframe.volumes.operations.executors.intents import OnChain, OnVolume, snapshots_of
from stillframe.volumes.storage.drivers.contract import Share
from stillframe.volumes.worker import file_users
from stillframe.volumes.worker.context import WorkerContext

PATIENCE_SECONDS = 5.0
SHORTEST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.05, 1.0
_LOG = logging.getLogger(__name__)
On = TypeVar("On", bound=OnVolume)


class CheckUnused(Args, frozen=True, kw_only=True):
    """Look whether anybody uses the volume's files, or something is based on one."""

    verb = "check_unused"


class CheckClosed(Args, frozen=True, kw_only=True):
    """Look whether anybody uses the files of the volume, or of another one, which is read: on the same share unless another is
    named."""

    verb = "check_closed"
    volume_id: str | None = None
    backend: str | None = None
    share: str | None = None


class CheckStopped(Args, frozen=True, kw_only=True):
    """Look whether the volume's server stands still."""

    verb = "check_stopped"


class MakeFile(Args, frozen=True, kw_only=True):
    """Make a file of the volume; ``size`` is its virtual size in bytes."""

    name: str
    size: int
    format: str


class MadeFile(TypedDict):
    """The fields of ``MakeFile``."""

    name: str
    size: int
    format: str


class GrownFile(TypedDict):
    """The fields of ``GrowFile``, and of ``Resize``."""

    name: str
    format: str
    size: int


class GrowFile(Args, frozen=True, kw_only=True):
    """Let others see that a file has ``size`` bytes."""

    name: str
    format: str
    size: int


class ResizeLive(GrowFile, frozen=True, kw_only=True):
    """As ``Resize``, of a file that a running server has open."""


class MoveFile(Args, frozen=True, kw_only=True):
    """Give a file that becomes the volume's, or ceases to be so, the name ``to``."""

    name: str
    to: str


def share_of(worker: WorkerContext, operation: Operation[OnVolume]) -> Share:
    return worker.share({"backend": operation.intent.backend, "share": operation.intent.share})


def never(_worker: WorkerContext, _operation: Operation[OnVolume], _args: Any) -> None:
    """For steps that only look: they look again."""
    return


def check_unused(worker: WorkerContext, operation: Operation[OnVolume], _args: CheckUnused) -> Document:
    """As ``check_closed``, before files are changed or renamed: then nothing may be based on one of them either. Raises
    FileInUse too."""
    check_closed(worker, operation, CheckClosed())
    file_users.refuse_foreign_readers(worker, share_of(worker, operation), operation.intent.volume_id)
    return {}


def check_closed(worker: WorkerContext, operation: Operation[OnVolume], args: CheckClosed) -> Document:
    """Checks before anything is done offline, whatever the volume's row says, that no program has a file of it open or locked
    and that no description of a server, live, inactive or saved, names one. ``args`` may name another volume, which is read,
    and the share where it lies, if that is another. Raises as ``refuse_or_wait``; ServiceUnavailable and ShareUnavailable when
    that is not known."""
    volume_id = args.volume_id or operation.intent.volume_id
    end_links(share_of(worker, operation), operation)
    elsewhere = {"backend": args.backend, "share": args.share}
    share = worker.share(elsewhere) if args.share is not None else share_of(worker, operation)
    busy = _open_files(share, volume_id, operation)
    if busy:
        refuse_or_wait(worker, operation, f"volume {volume_id} is in use: a program has {', '.join(busy)} open")
    servers = set(worker.compute.servers_with(volume_id))
    servers |= set(file_users.naming(worker, share, volume_id))
    if servers:
        refuse_or_wait(worker, operation, file_users.named_by(volume_id, sorted(servers)))
    return {}


def check_sound(worker: WorkerContext, operation: Operation[OnVolume], args: CheckUnused) -> Document:
    """As ``check_unused``; then repairs what a dead writer left, before anything is built on it or merged into it."""
    return {**check_unused(worker, operation, args), **made_sound(worker, operation)}


def made_sound(worker: WorkerContext, operation: Operation[OnVolume]) -> Document:
    """Repairs the files, which nobody has open. Returns what was repaired, for the journal."""
    done = share_of(worker, operation).make_sound(operation.intent.volume_id)
    for each in done:
        _LOG.warning("volume %s: %s", operation.intent.volume_id, each)
    return {"repaired": done} if done else {}


def refuse_or_wait(worker: WorkerContext, operation: Operation[OnVolume], why: str) -> None:
    """Raises Conflict because somebody uses the files; past the point of no return ServiceUnavailable, so that the operation
    continues when they are free again."""
    if any(MERGE[step.verb].no_return == "start" and step.key in operation.evidence for step in _merging(operation)):
        wait(worker, operation, why)
    raise Conflict(f"{why}; repeat the request when it is free")


def stands_still(worker: WorkerContext, operation: Operation[OnVolume]) -> None:
    """Before each step that changes a file or a name under a stopped server: somebody may have started and saved it since the
    last one. QEMU's locks protect the files of a running server; only this check protects those of a saved one. Raises as
    ``refuse_or_wait``."""
    if not any(isinstance(step.args, CheckStopped) for step in operation.plan):
        return
    server = worker.compute.server_of(operation.intent.volume_id)
    if server is not None and not server["active"] and server.get("refusal"):
        refuse_or_wait(worker, operation, server["refusal"])


def _merging(operation: Operation[OnVolume]) -> list[Step]:
    return [step for step in operation.plan if step.verb in MERGE]


def wait(worker: WorkerContext, operation: Operation[OnVolume], why: str) -> None:
    """It may last long, so no thread waits for it, and the snapshots show the reason. Raises ServiceUnavailable."""
    message = f"it waits: {why}"
    with worker.database.write() as connection:
        for snapshot_id in snapshots_of(operation.intent):
            snapshots.change(connection, snapshot_id, fault=message)
    raise ServiceUnavailable(message)


def _open_files(share: Share, volume_id: str, operation: Operation[OnVolume]) -> list[str]:
    """Returns the files that stay open. A program that plans something or inspects a chain has them open for a moment: that
    does not count. Raises NotYet until it is over."""
    busy, waited = share.in_use(volume_id), operation.notes().get("waited", 0.0)
    if busy and waited < PATIENCE_SECONDS:
        seconds = min(LONGEST_LOOK_SECONDS, max(SHORTEST_LOOK_SECONDS, waited / 5))
        raise NotYet(seconds, {"waited": waited + seconds})
    return busy


def end_links(share: Share, operation: Operation[OnVolume]) -> None:
    """A crash between link and unlink leaves a file with two names, which must not be opened: remove the old name first."""
    volume_id = operation.intent.volume_id
    share.remove_temporary(volume_id, operation.id)
    for args in (step.args for step in operation.plan if step.key in operation.evidence):
        if isinstance(args, Rename | MoveFile) and {args.name, args.to} <= set(share.listing()):
            (share.rename if isinstance(args, Rename) else share.unmanage_file)(volume_id, args.name, args.to)


def half_published(worker: WorkerContext, operation: Operation[OnVolume]) -> bool:
    """Tells whether a crash left this operation's file under its temporary name: making it again removes that."""
    return share_of(worker, operation).holds_temporary(operation.intent.volume_id, operation.id)


def _files(worker: WorkerContext, operation: Operation[OnVolume]) -> list[str]:
    return share_of(worker, operation).files(operation.intent.volume_id)


def _overlay(args: CreateOverlay) -> Image:
    return Image(args.name, "qcow2", args.size, args.backing, args.backing_format)


def _overlay_made(worker: WorkerContext, operation: Operation[OnVolume], args: CreateOverlay) -> Document | None:
    if args.name not in _files(worker, operation) or half_published(worker, operation):
        return None
    return {} if share_of(worker, operation).image(args.name, "qcow2") == _overlay(args) else None


def _make_overlay(worker: WorkerContext, operation: Operation[OnVolume], args: CreateOverlay) -> Document:
    repaired = made_sound(worker, operation)
    share_of(worker, operation).create_overlay(operation.intent.volume_id, _overlay(args), operation.id)
    return repaired


def _cloned(worker: WorkerContext, operation: Operation[OnVolume], args: Clone) -> Document | None:
    if args.name not in _files(worker, operation) or half_published(worker, operation):
        return None
    return {} if share_of(worker, operation).image(args.name, "raw").size == args.size else None


def _clone(worker: WorkerContext, operation: Operation[OnVolume], args: Clone) -> Document:
    image = Image(args.name, "raw", args.size)
    share_of(worker, operation).clone(operation.intent.volume_id, args.source, image, operation.id)
    return {}


def unmake(worker: WorkerContext, operation: Operation[OnVolume], args: MakeFile | CreateOverlay | Clone) -> None:
    """Removes a file that this operation made, and what was left when that was interrupted."""
    share, volume_id = share_of(worker, operation), operation.intent.volume_id
    share.remove_temporary(volume_id, operation.id)
    share.remove(volume_id, args.name)


def _recorded(worker: WorkerContext, operation: Operation[OnVolume], args: Record) -> Document | None:
    found = share_of(worker, operation).read_document(names.info_name(operation.intent.volume_id))
    return {} if found == info_document(args.active, args.overlays) else None


def _record(worker: WorkerContext, operation: Operation[OnVolume], args: Record) -> Document:
    _write_info(worker, operation, info_document(args.active, args.overlays))
    return {}


def _unrecord(worker: WorkerContext, operation: Operation[OnChain], _args: Record) -> None:
    assert operation.intent.info_before is not None, "a plan with a step Record came without what was recorded before"
    _write_info(worker, operation, operation.intent.info_before)


def _write_info(worker: WorkerContext, operation: Operation[OnVolume], document: Mapping[str, str]) -> None:
    share_of(worker, operation).write_document(names.info_name(operation.intent.volume_id), document)


def info_document(active_file: str, overlays: Mapping[str, str | None]) -> dict[str, str]:
    """The ``.info`` document as Cinder's file drivers keep it: the active file, and each snapshot's overlay; empty for a
    volume without snapshots whose active file has the volume's own name, which is what a reader takes without a document.
    The tip of a branch that was left has no overlay and stands only in the record."""
    known = {key: overlay for key, overlay in overlays.items() if overlay is not None}
    return {"active": active_file, **known} if overlays or not names.is_base(active_file) else {}


def _committed(worker: WorkerContext, operation: Operation[OnVolume], args: Commit) -> Document | None:
    return {"bytes": args.bytes} if args.top not in _files(worker, operation) else None


def _commit(worker: WorkerContext, operation: Operation[OnVolume], args: Commit) -> Document:
    share, volume_id = share_of(worker, operation), operation.intent.volume_id
    if operation.at in operation.evidence and operation.epoch > 1:
        # What a commit that was interrupted left: leaks after a kill, wrong counts after an I/O error (F8).
        share.repair(volume_id, args.base, args.base_format)
    stamp = share.stamp(args.top)
    share.commit(volume_id, args.top, args.base)
    return {"bytes": args.bytes, "stamp": stamp}


def commit_again(worker: WorkerContext, operation: Operation[OnVolume], commit: str) -> None:
    """Checks, before the definition stops naming a file that was committed (by the step of that key), that nobody has started
    the server since without our knowledge and written into it."""
    args = next(each.args for each in operation.plan if each.key == commit and isinstance(each.args, Commit))
    share, volume_id = share_of(worker, operation), operation.intent.volume_id
    if operation.evidence[commit].get("stamp") != share.stamp(args.top):
        share.repair(volume_id, args.base, args.base_format)
        share.commit(volume_id, args.top, args.base)


def _pulled(worker: WorkerContext, operation: Operation[OnVolume], args: Pull) -> Document | None:
    if args.name not in _files(worker, operation):
        return {"bytes": args.bytes}  # it has its final name already
    found = share_of(worker, operation).image(args.name, "qcow2")
    return {"bytes": args.bytes} if found.backing == args.backing else None


def _pull(worker: WorkerContext, operation: Operation[OnVolume], args: Pull) -> Document:
    share_of(worker, operation).pull(operation.intent.volume_id, args.name, args.backing, args.backing_format)
    return {"bytes": args.bytes}


def _repointed(worker: WorkerContext, operation: Operation[OnVolume], args: Repoint) -> Document | None:
    found = share_of(worker, operation).image(args.name, "qcow2")
    return {} if (found.backing, found.backing_format) == (args.backing, args.backing_format) else None


def _repoint(worker: WorkerContext, operation: Operation[OnVolume], args: Repoint) -> Document:
    share_of(worker, operation).repoint(operation.intent.volume_id, args.name, args.backing, args.backing_format)
    return {}


def _renamed(worker: WorkerContext, operation: Operation[OnVolume], args: Rename) -> Document | None:
    found = _files(worker, operation)
    return {} if args.name not in found and args.to in found else None


def _rename(worker: WorkerContext, operation: Operation[OnVolume], args: Rename) -> Document:
    share_of(worker, operation).rename(operation.intent.volume_id, args.name, args.to)
    return {}


def _trashed(worker: WorkerContext, operation: Operation[OnVolume], args: Trash) -> Document | None:
    return None if args.name in _files(worker, operation) else {}


def _trash(worker: WorkerContext, operation: Operation[OnVolume], args: Trash) -> Document:
    share_of(worker, operation).remove(operation.intent.volume_id, args.name)
    return {}


def resized(worker: WorkerContext, operation: Operation[OnVolume], args: Resize | ResizeLive) -> Document | None:
    if args.name not in _files(worker, operation):
        return None  # the share answers, so there is no file that could have grown
    found = share_of(worker, operation).image(args.name, args.format)
    return {} if found.size >= args.size else None


def refuse_if_gone(worker: WorkerContext, operation: Operation[OnVolume], name: str) -> None:
    """Raises ChainConflict when a file of the volume that is to be changed is not on the share."""
    if name not in _files(worker, operation):
        raise ChainConflict(f"{name}, the file of volume {operation.intent.volume_id}, is missing on the share")


def _resize(worker: WorkerContext, operation: Operation[OnVolume], args: Resize) -> Document:
    refuse_if_gone(worker, operation, args.name)
    share = share_of(worker, operation)
    share.resize(operation.intent.volume_id, args.name, args.format, args.size)
    return {}


def built_upon(verb: Verb[On, Told]) -> Verb[On, Told]:
    """Once such a step is recorded, which happens after it is durable, the share is not asked about it again. Before it begins,
    the server is checked.

    Later steps of the same plan hide it: they give a removed file's name to another file, remove a file that was pointed
    elsewhere, write the document again. If it were asked, the step would look undone, and doing it again would remove the wrong
    file.
    """

    def done(worker: WorkerContext, operation: Operation[On], args: Told) -> Document | None:
        known = operation.evidence.get(operation.at, {})
        if "durable" in known:
            return known
        found: Document | None = verb.done(worker, operation, args)
        if found is not None:
            return {**found, "durable": True}
        stands_still(worker, operation)
        return None

    def do(worker: WorkerContext, operation: Operation[On], args: Told) -> Document:
        return {**verb.do(worker, operation, args), "durable": True}

    return replace(verb, done=done, do=do)


CHECK = Verb(never, check_unused, args=CheckUnused)
CHECK_CLOSED = Verb(never, check_closed, args=CheckClosed)
CHECK_SOUND = Verb(never, check_sound, args=CheckUnused)
CREATE_OVERLAY = Verb(_overlay_made, _make_overlay, unmake, args=CreateOverlay)
# How a volume's content is kept from here on: below an overlay, or in a file of its own.
KEEP: Mapping[str, Verb[OnVolume, Any]] = {
    "CreateOverlay": CREATE_OVERLAY,
    "Clone": Verb(_cloned, _clone, unmake, args=Clone),
}
RECORD = built_upon(Verb(_recorded, _record, _unrecord, args=Record))
MERGE: Mapping[str, Verb[OnChain, Any]] = {
    "Record": RECORD,
    "Commit": built_upon(Verb(_committed, _commit, no_return="start", args=Commit)),
    "Pull": built_upon(Verb(_pulled, _pull, no_return="start", args=Pull)),
    "Repoint": built_upon(Verb(_repointed, _repoint, no_return="start", args=Repoint)),
    "Rename": built_upon(Verb(_renamed, _rename, no_return="start", args=Rename)),
    "Trash": built_upon(Verb(_trashed, _trash, no_return="start", args=Trash)),
}
# A file that has not grown is unchanged: there is nothing to put back.
RESIZE = Verb(resized, _resize, no_return="done", args=Resize)

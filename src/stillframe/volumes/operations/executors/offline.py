"""The steps of a chain's plan, done offline through qemu-img: for each how to tell that it is done, how to do it, and how to
undo it.

Every operation's intent names volume_id, backend and share; ``before`` is the active file when it was planned.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.db import snapshots
from stillframe.errors import ChainConflict, Conflict, ServiceUnavailable
from stillframe.journal.operation import Document, NotYet, Operation, Verb, key
from stillframe.volumes.storage.drivers.contract import Share
from stillframe.volumes.worker import file_users
from stillframe.volumes.worker.context import WorkerContext

PATIENCE_SECONDS = 5.0
SHORTEST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.05, 1.0
_LOG = logging.getLogger(__name__)


def share_of(world: WorkerContext, operation: Operation) -> Share:
    return world.share(operation.intent)


def never(_world: WorkerContext, _operation: Operation, _args: Document) -> None:
    """For steps that only look: they look again."""
    return


def check_unused(world: WorkerContext, operation: Operation, args: Document) -> Document:
    """As ``check_closed``, before files are changed or renamed: then nothing may be based on one of them either. Raises
    FileInUse too."""
    check_closed(world, operation, args)
    file_users.refuse_foreign_readers(world, share_of(world, operation), operation.intent["volume_id"])
    return {}


def check_closed(world: WorkerContext, operation: Operation, args: Document) -> Document:
    """Checks before anything is done offline, whatever the volume's row says, that no program has a file of it open or locked
    and that no description of a server, live, inactive or saved, names one. ``args`` may hold the ``volume_id`` of another one
    on the same share, which is read. Raises as ``refuse_or_wait``; ServiceUnavailable and ShareUnavailable when that is not
    known."""
    volume_id = args.get("volume_id") or operation.intent["volume_id"]
    end_links(share_of(world, operation), operation)
    busy = _open_files(share_of(world, operation), volume_id, operation)
    if busy:
        refuse_or_wait(world, operation, f"volume {volume_id} is in use: a program has {', '.join(busy)} open")
    servers = set(world.compute.servers_with(volume_id))
    servers |= set(file_users.naming(world, share_of(world, operation), volume_id))
    if servers:
        refuse_or_wait(world, operation, file_users.named_by(volume_id, sorted(servers)))
    return {}


def check_sound(world: WorkerContext, operation: Operation, args: Document) -> Document:
    """As ``check_unused``; then repairs what a dead writer left, before anything is built on it or merged into it."""
    return {**check_unused(world, operation, args), **made_sound(world, operation)}


def made_sound(world: WorkerContext, operation: Operation) -> Document:
    """Repairs the files, which nobody has open. Returns what was repaired, for the journal."""
    done = share_of(world, operation).make_sound(operation.intent["volume_id"])
    for each in done:
        _LOG.warning("volume %s: %s", operation.intent["volume_id"], each)
    return {"repaired": done} if done else {}


def refuse_or_wait(world: WorkerContext, operation: Operation, why: str) -> None:
    """Raises Conflict because somebody uses the files; past the point of no return ServiceUnavailable, so that the operation
    continues when they are free again."""
    if any(MERGE[step["verb"]].no_return == "start" and key(step) in operation.evidence for step in _merging(operation)):
        wait(world, operation, why)
    raise Conflict(f"{why}; repeat the request when it is free")


def stands_still(world: WorkerContext, operation: Operation) -> None:
    """Before each step that changes a file or a name under a stopped server: somebody may have started and saved it since the
    last one. QEMU's locks protect the files of a running server; only this check protects those of a saved one. Raises as
    ``refuse_or_wait``."""
    if not any(step["verb"] == "check_stopped" for step in operation.plan):
        return
    server = world.compute.server_of(operation.intent["volume_id"])
    if server is not None and not server["active"] and server.get("refusal"):
        refuse_or_wait(world, operation, server["refusal"])


def _merging(operation: Operation) -> list[Document]:
    return [step for step in operation.plan if step["verb"] in MERGE]


def wait(world: WorkerContext, operation: Operation, why: str) -> None:
    """It may last long, so no thread waits for it, and the snapshots show the reason. Raises ServiceUnavailable."""
    told = f"it waits: {why}"
    with world.database.write() as connection:
        for snapshot_id in operation.intent.get("snapshot_ids", []):
            snapshots.change(connection, snapshot_id, fault=told)
    raise ServiceUnavailable(told)


def _open_files(share: Share, volume_id: str, operation: Operation) -> list[str]:
    """Returns the files that stay open. A program that plans something or inspects a chain has them open for a moment: that
    does not count. Raises NotYet until it is over."""
    busy, waited = share.in_use(volume_id), operation.notes().get("waited", 0.0)
    if busy and waited < PATIENCE_SECONDS:
        seconds = min(LONGEST_LOOK_SECONDS, max(SHORTEST_LOOK_SECONDS, waited / 5))
        raise NotYet(seconds, {"waited": waited + seconds})
    return busy


def end_links(share: Share, operation: Operation) -> None:
    """A crash between link and unlink leaves a file with two names, which must not be opened: remove the old name first."""
    volume_id = operation.intent["volume_id"]
    share.remove_temporary(volume_id, operation.id)
    begun = [step for step in operation.plan if "to" in step["args"] and key(step) in operation.evidence]
    for step in begun:
        args = step["args"]
        if {args["name"], args["to"]} <= set(share.listing()):
            (share.rename if step["verb"] == "Rename" else share.give_back)(volume_id, args["name"], args["to"])


def half_published(world: WorkerContext, operation: Operation) -> bool:
    """Tells whether a crash left this operation's file under its temporary name: making it again removes that."""
    return share_of(world, operation).holds_temporary(operation.intent["volume_id"], operation.id)


def _files(world: WorkerContext, operation: Operation) -> list[str]:
    return share_of(world, operation).files(operation.intent["volume_id"])


def _overlay(args: Document) -> Image:
    return Image(args["name"], "qcow2", args["size"], args["backing"], args["backing_format"])


def _overlay_made(world: WorkerContext, operation: Operation, args: Document) -> Document | None:
    if args["name"] not in _files(world, operation) or half_published(world, operation):
        return None
    return {} if share_of(world, operation).image(args["name"], "qcow2") == _overlay(args) else None


def _make_overlay(world: WorkerContext, operation: Operation, args: Document) -> Document:
    repaired = made_sound(world, operation)
    share_of(world, operation).create_overlay(operation.intent["volume_id"], _overlay(args), operation.id)
    return repaired


def unmake(world: WorkerContext, operation: Operation, args: Document) -> None:
    """Removes a file that this operation made, and what was left when that was interrupted."""
    share, volume_id = share_of(world, operation), operation.intent["volume_id"]
    share.remove_temporary(volume_id, operation.id)
    share.remove(volume_id, args["name"])


def _recorded(world: WorkerContext, operation: Operation, args: Document) -> Document | None:
    found = share_of(world, operation).read_document(names.info_name(operation.intent["volume_id"]))
    return {} if found == info_document(args["active"], args["overlays"]) else None


def _record(world: WorkerContext, operation: Operation, args: Document) -> Document:
    _write_info(world, operation, info_document(args["active"], args["overlays"]))
    return {}


def _unrecord(world: WorkerContext, operation: Operation, _args: Document) -> None:
    _write_info(world, operation, operation.intent["info_before"])


def _write_info(world: WorkerContext, operation: Operation, document: Mapping[str, str]) -> None:
    share_of(world, operation).write_document(names.info_name(operation.intent["volume_id"]), document)


def info_document(active_file: str, overlays: Mapping[str, str | None]) -> dict[str, str]:
    """The ``.info`` document as Cinder's file drivers keep it: the active file, and each snapshot's overlay; empty for a
    volume without snapshots whose active file has the volume's own name, which is what a reader takes without a document.
    The tip of a branch that was left has no overlay and stands only in the record."""
    known = {key: overlay for key, overlay in overlays.items() if overlay is not None}
    return {"active": active_file, **known} if overlays or not names.is_base(active_file) else {}


def _committed(world: WorkerContext, operation: Operation, args: Document) -> Document | None:
    return {"bytes": args["bytes"]} if args["top"] not in _files(world, operation) else None


def _commit(world: WorkerContext, operation: Operation, args: Document) -> Document:
    share, volume_id = share_of(world, operation), operation.intent["volume_id"]
    if args["key"] in operation.evidence and operation.epoch > 1:
        # What a commit that was interrupted left: leaks after a kill, wrong counts after an I/O error (F8).
        share.repair(volume_id, args["base"], args["base_format"])
    stamp = share.stamp(args["top"])
    share.commit(volume_id, args["top"], args["base"])
    return {"bytes": args["bytes"], "stamp": stamp}


def commit_again(world: WorkerContext, operation: Operation, commit: str) -> None:
    """Checks, before the definition stops naming a file that was committed (by the step of that key), that nobody has started
    the server since without our knowledge and written into it."""
    args = next(each["args"] for each in operation.plan if key(each) == commit)
    share, volume_id = share_of(world, operation), operation.intent["volume_id"]
    if operation.evidence[commit].get("stamp") != share.stamp(args["top"]):
        share.repair(volume_id, args["base"], args["base_format"])
        share.commit(volume_id, args["top"], args["base"])


def _pulled(world: WorkerContext, operation: Operation, args: Document) -> Document | None:
    if args["name"] not in _files(world, operation):
        return {"bytes": args["bytes"]}  # it has its final name already
    found = share_of(world, operation).image(args["name"], "qcow2")
    return {"bytes": args["bytes"]} if found.backing == args["backing"] else None


def _pull(world: WorkerContext, operation: Operation, args: Document) -> Document:
    share_of(world, operation).pull(operation.intent["volume_id"], args["name"], args["backing"], args["backing_format"])
    return {"bytes": args["bytes"]}


def _repointed(world: WorkerContext, operation: Operation, args: Document) -> Document | None:
    found = share_of(world, operation).image(args["name"], "qcow2")
    return {} if (found.backing, found.backing_format) == (args["backing"], args["backing_format"]) else None


def _repoint(world: WorkerContext, operation: Operation, args: Document) -> Document:
    share_of(world, operation).repoint(operation.intent["volume_id"], args["name"], args["backing"], args["backing_format"])
    return {}


def _renamed(world: WorkerContext, operation: Operation, args: Document) -> Document | None:
    found = _files(world, operation)
    return {} if args["name"] not in found and args["to"] in found else None


def _rename(world: WorkerContext, operation: Operation, args: Document) -> Document:
    share_of(world, operation).rename(operation.intent["volume_id"], args["name"], args["to"])
    return {}


def _trashed(world: WorkerContext, operation: Operation, args: Document) -> Document | None:
    return None if args["name"] in _files(world, operation) else {}


def _trash(world: WorkerContext, operation: Operation, args: Document) -> Document:
    share_of(world, operation).remove(operation.intent["volume_id"], args["name"])
    return {}


def resized(world: WorkerContext, operation: Operation, args: Document) -> Document | None:
    if args["name"] not in _files(world, operation):
        return None  # the share answers, so there is no file that could have grown
    found = share_of(world, operation).image(args["name"], args["format"])
    return {} if found.size >= args["size"] else None


def refuse_if_gone(world: WorkerContext, operation: Operation, name: str) -> None:
    """Raises ChainConflict when a file of the volume that is to be changed is not on the share."""
    if name not in _files(world, operation):
        raise ChainConflict(f"{name}, the file of volume {operation.intent['volume_id']}, is missing on the share")


def _resize(world: WorkerContext, operation: Operation, args: Document) -> Document:
    refuse_if_gone(world, operation, args["name"])
    share = share_of(world, operation)
    share.resize(operation.intent["volume_id"], args["name"], args["format"], args["size"])
    return {}


def built_upon(verb: Verb) -> Verb:
    """Once such a step is recorded, which happens after it is durable, the share is not asked about it again. Before it begins,
    the server is checked.

    Later steps of the same plan hide it: they give a removed file's name to another file, remove a file that was pointed
    elsewhere, write the document again. If it were asked, the step would look undone, and doing it again would remove the wrong
    file.
    """

    def done(world: WorkerContext, operation: Operation, args: Document) -> Document | None:
        known = operation.evidence.get(args["key"], {})
        if "durable" in known:
            return known
        found: Document | None = verb.done(world, operation, args)
        if found is not None:
            return {**found, "durable": True}
        stands_still(world, operation)
        return None

    def do(world: WorkerContext, operation: Operation, args: Document) -> Document:
        return {**verb.do(world, operation, args), "durable": True}

    return replace(verb, done=done, do=do)


CHECK = Verb(never, check_unused)
CHECK_CLOSED = Verb(never, check_closed)
CHECK_SOUND = Verb(never, check_sound)
CREATE_OVERLAY = Verb(_overlay_made, _make_overlay, unmake)
MERGE: Mapping[str, Verb] = {
    "Record": built_upon(Verb(_recorded, _record, _unrecord)),
    "Commit": built_upon(Verb(_committed, _commit, no_return="start")),
    "Pull": built_upon(Verb(_pulled, _pull, no_return="start")),
    "Repoint": built_upon(Verb(_repointed, _repoint, no_return="start")),
    "Rename": built_upon(Verb(_renamed, _rename, no_return="start")),
    "Trash": built_upon(Verb(_trashed, _trash, no_return="start")),
}
# A file that has not grown is unchanged: there is nothing to put back.
RESIZE = Verb(resized, _resize, no_return="done")

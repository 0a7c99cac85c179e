"""Compares a volume's rows with its files: what is missing, what has the wrong backing file, what is damaged. Pure."""

from collections.abc import Iterator

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.db.rows import SnapshotRow
from stillframe.host import files
from stillframe.units import GIB
from stillframe.volumes.recovery.doctor.findings import Finding
from stillframe.volumes.recovery.doctor.seen import FileSeen, ShareSeen, VolumeKnown, WorkerContext

WITHOUT_FILES = (
    "creating",
    "downloading",
    "error",
    "deleting",
    "error_deleting",
    "unmanaging",
    "managing",
    "error_managing",
    "restoring-backup",
)
JUDGED_SNAPSHOTS = ("available", "backing-up", "restoring", "error")


def judge(worker: WorkerContext, share: ShareSeen) -> Iterator[Finding]:
    """Yields what does not fit between the rows of the volumes on this share and its files."""
    for volume_id, known in worker.known.volumes.items():
        if known.row["share"] != share.export or volume_id in worker.unsettled or known.row["status"] in WITHOUT_FILES:
            continue
        found = list(_volume(share, known))
        yield from found
        if not any(finding.kind == "row_without_file" for finding in found):
            yield from _documents(share, known)


def _volume(share: ShareSeen, known: VolumeKnown) -> Iterator[Finding]:
    own = {name: seen for name, seen in share.files.items() if share.volume_of(name) == known.row["id"]}
    if not own:
        what = f"volume {known.row['id']} ({known.row['name']!r}) has a row and no file on {share.export}"
        yield Finding("row_without_file", what, share.export, known.row["id"])
        return
    yield from _missing(share, known)
    for name, seen in own.items():
        yield from _file(share, known, name, seen)
    yield from _active(share, known)
    for row in known.snapshots:
        yield from _snapshot(share, known, row)


def _missing(share: ShareSeen, known: VolumeKnown) -> Iterator[Finding]:
    wanted = {known.row["active_file"]: "receives the volume's writes"}
    for reason, name in known.holds.items():
        wanted.setdefault(name, f"is kept for {reason}")
    for name, clones in known.linked.items():
        wanted.setdefault(name, f"is read by linked volume {clones[0]}")
    for row in known.snapshots:
        if row["status"] in JUDGED_SNAPSHOTS and _was_made(share, row):
            wanted.setdefault(row["backing"], f"holds snapshot {row['id']}")
            if row["overlay"]:
                wanted.setdefault(row["overlay"], f"received the writes after snapshot {row['id']}")
    for name, why in wanted.items():
        if name not in share.files:
            what = f"{name} is missing on {share.export}: it {why} of volume {known.row['id']}"
            yield Finding("missing_file", what, share.export, known.row["id"], file=name)


def _was_made(share: ShareSeen, row: SnapshotRow) -> bool:
    """A snapshot that failed has no overlay, or clone, of its own; its row needs no file."""
    if row["status"] != "error":
        return True
    if (names.parse(row["backing"]) or ("", None))[1] == row["id"]:
        return row["backing"] in share.files
    overlay = share.files.get(row["overlay"] or "")
    return overlay is not None and overlay.names == row["backing"]


def _file(share: ShareSeen, known: VolumeKnown, name: str, seen: FileSeen) -> Iterator[Finding]:
    def finding(kind: str, what: str) -> Finding:
        return Finding(kind, what, share.export, known.row["id"], file=name)

    if seen.problem is not None:
        yield finding("unsafe_file", f"{name} on {share.export} must not be opened: {seen.problem}")
        return
    if seen.unsound is not None:
        yield finding("unsound_file", f"a file on {share.export} is not sound: {seen.unsound}")
    if seen.bitmaps:
        what = f"{name} on {share.export} holds bitmaps that were in use when their writer died: {', '.join(seen.bitmaps)}"
        yield finding("inconsistent_bitmap", what)
    if seen.parent is not None:
        yield finding("parent_image_changed", seen.parent)
    if seen.damage is not None:
        yield finding("corruption", f"{name} on {share.export} is damaged: {seen.damage}")
    elif seen.leaks:
        yield finding("leaked_clusters", f"{name} on {share.export} holds {seen.leaks} clusters that nothing refers to")
    if seen.image is not None and seen.image.backing is not None:
        for kind, what in _below(share, known, seen.image):
            yield finding(kind, what)


def _below(share: ShareSeen, known: VolumeKnown, image: Image) -> Iterator[tuple[str, str]]:
    backing, linked = str(image.backing), known.row["linked_to"]
    foreign = share.volume_of(backing) != known.row["id"]
    expected = linked["format"] if linked and backing == linked["file"] else None
    if foreign and expected is None:
        yield "wrong_backing", f"the header of {image.name} names {backing}, which is no file of its volume"
        return
    if backing not in share.files:
        yield "wrong_backing", f"the header of {image.name} names {backing}, which is not on {share.export}"
        return
    if _loops(share, image.name):
        yield "wrong_backing", f"the chain below {image.name} leads back to a file of its own"
        return
    below = share.files[backing].image
    format_ = expected if foreign else below.format if below else None
    if format_ is not None and image.backing_format != format_:
        yield (
            "wrong_backing_format",
            f"the header of {image.name} calls {backing} {image.backing_format!r}, but it is {format_!r}",
        )
    if below is not None and image.size < below.size:
        yield "wrong_size", f"{image.name} has {image.size} bytes, less than the {below.size} of {backing} below it"


def _loops(share: ShareSeen, name: str) -> bool:
    seen: set[str] = set()
    current: str | None = name
    while current is not None and current in share.files:
        if current in seen:
            return True
        seen.add(current)
        current = share.files[current].names
    return False


def _active(share: ShareSeen, known: VolumeKnown) -> Iterator[Finding]:
    row, seen = known.row, share.files.get(known.row["active_file"])
    if seen is not None and seen.image is not None:
        yield from _size(share, known, seen.image, row["size"], f"volume {row['id']}")
    for snapshot in known.snapshots:
        if snapshot["backing"] == row["active_file"] and snapshot["status"] in JUDGED_SNAPSHOTS[:-1]:
            what = f"{row['active_file']} receives the volume's writes and is said to hold snapshot {snapshot['id']}"
            yield Finding("snapshot_not_behind", what, share.export, row["id"], snapshot["id"], row["active_file"])


def _size(share: ShareSeen, known: VolumeKnown, image: Image, gib: int, what: str) -> Iterator[Finding]:
    if -(-image.size // GIB) != gib:
        message = f"the header of {image.name} says {image.size} bytes, the row of {what} {gib} GiB ({gib * GIB} bytes)"
        yield Finding("wrong_size", message, share.export, known.row["id"], file=image.name)


def _snapshot(share: ShareSeen, known: VolumeKnown, row: SnapshotRow) -> Iterator[Finding]:
    if row["status"] not in JUDGED_SNAPSHOTS or not _was_made(share, row):
        return
    held, overlay = share.files.get(row["backing"]), share.files.get(row["overlay"] or "")
    if (
        overlay is not None
        and overlay.image is not None
        and overlay.names != row["backing"]
        and _is_own(share, known, overlay.names)
    ):
        what = f"snapshot {row['id']} should lie behind {row['overlay']}, in {row['backing']}; the header names {overlay.names}"
        yield Finding("snapshot_not_behind", what, share.export, known.row["id"], row["id"], row["overlay"])
    if held is None or held.image is None:
        return
    if held.image.format != row["backing_format"]:
        what = f"the row of snapshot {row['id']} calls {row['backing']} {row['backing_format']!r}, it is {held.image.format!r}"
        yield Finding("wrong_backing_format", what, share.export, known.row["id"], row["id"], row["backing"])
    yield from _size(share, known, held.image, row["size"], f"snapshot {row['id']}")


def _is_own(share: ShareSeen, known: VolumeKnown, name: str | None) -> bool:
    """A backing name of another volume, or none under an overlay, is reported once, as a wrong backing file."""
    return name is None or share.volume_of(name) == known.row["id"]


def _documents(share: ShareSeen, known: VolumeKnown) -> Iterator[Finding]:
    wanted = {names.info_name: ("info_differs", known.info), names.record_name: ("record_differs", known.record)}
    for make_name, (kind, document) in wanted.items():
        name = make_name(known.row["id"])
        text = share.documents.get(name)
        if _parsed(text) == document:
            continue
        how = "is missing" if text is None else "is no JSON document" if _parsed(text) is None else "says something else"
        what = f"{name} on {share.export} {how}" + (
            "" if document else "; the volume has no snapshot, so it should not be there"
        )
        facts = {"document": document, "text": text}
        yield Finding(kind, what, share.export, known.row["id"], file=name, facts=facts)


def _parsed(text: str | None) -> object:
    """The document of a text; an empty one for no file, as the rows have it for a volume without snapshots."""
    if text is None:
        return {}
    try:
        return files.document_of(text)
    except ValueError:
        return None

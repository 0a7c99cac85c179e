"""What the doctor saw, as values: shares with their files, rows, servers. Nothing here asks anybody."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.db.rows import AssistedSnapshotRow, AttachmentRow, BackupRow, OperationRow, SnapshotRow, VolumeRow
from stillframe.host.entries import Entry
from stillframe.host.scratch import Left


@dataclass(frozen=True)
class FileSeen:
    """One chain file. ``image`` is None where ``problem`` says why, or where nobody knows the file's format. ``locked``: some
    program has it open, locked or not.

    ``names`` is the backing file a header names, whatever the format; ``examined`` False: leaks could not be counted.
    ``unsound`` says why the header cannot be relied upon; ``dirty``: for the one reason that a repair of counts helps.
    ``bitmaps`` were in use when their writer died. ``parent`` says why a parent image is not what it was.
    """

    image: Image | None = None
    problem: str | None = None
    names: str | None = None
    locked: bool = False
    examined: bool = False
    leaks: int = 0
    damage: str | None = None
    unsound: str | None = None
    dirty: bool = False
    bitmaps: tuple[str, ...] = ()
    parent: str | None = None


@dataclass(frozen=True)
class TargetSeen:
    """What gives a volume out: the file's name, the initiators that may use it, and in words those that are connected."""

    name: str
    file: str
    initiators: Sequence[str]
    sessions: Sequence[str] = ()


@dataclass(frozen=True)
class ShareSeen:
    """One share. ``marker`` is the id its marker file says, ``known`` the one the database remembers (None: neither).
    ``chains`` False: every file of a volume is raw and stands alone. ``targets`` are by volume what gives it out; None where
    volumes are not given out, or where that could not be seen."""

    export: str
    backend: str
    path: Path
    known: str | None
    marker: str | None
    mode: int
    entries: Mapping[str, Entry] = field(default_factory=dict)
    files: Mapping[str, FileSeen] = field(default_factory=dict)
    documents: Mapping[str, str] = field(default_factory=dict)  # the text of every .info and .record
    chains: bool = True
    targets: Mapping[str, TargetSeen] | None = None
    readers: Mapping[str, Sequence[str]] = field(default_factory=dict)  # file -> files based on it that are of no known volume
    adopted: Mapping[str, str] = field(default_factory=dict)  # bases that have names of their own, and their volumes

    def volume_of(self, name: str) -> str | None:
        """Returns the volume that a chain file is of; None for every other file."""
        parsed = names.parse(name)
        return parsed[0] if parsed else self.adopted.get(name)

    @property
    def is_itself(self) -> bool:
        """The marker does not contradict the database. A share that was never used has neither."""
        return self.marker == self.known or self.known is None


@dataclass(frozen=True)
class VolumeKnown:
    """What the rows know of one volume. ``info`` and ``record`` are what should stand beside its files, as documents."""

    row: VolumeRow
    snapshots: Sequence[SnapshotRow]
    holds: Mapping[str, str]  # reason -> file
    linked: Mapping[str, Sequence[str]]  # file -> linked volumes that read it
    attachments: Sequence[AttachmentRow]
    info: Mapping[str, Any]
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Known:
    """What the database says. ``busy`` are ids of things an unfinished operation may be changing; ``parked`` of those that
    a parked one names; ``lived`` the volumes the journal ever had an operation on."""

    volumes: Mapping[str, VolumeKnown]
    backups: Sequence[BackupRow]
    operations: Sequence[OperationRow]  # unfinished ones
    busy: frozenset[str]
    parked: frozenset[str]
    lived: frozenset[str]
    abandoned: frozenset[str] = frozenset()  # operations of doctors that run no more
    sets: Sequence[AssistedSnapshotRow] = ()  # assisted snapshots in "error"
    abandoned_operations: Sequence[OperationRow] = ()  # operations that a person abandoned
    taken: Mapping[str, frozenset[str]] = field(default_factory=dict)  # assisted snapshot -> its snapshots

    @property
    def running(self) -> set[str]:
        """Ids of the operations that are under way."""
        return {row["id"] for row in self.operations if row["state"] != "parked"}


@dataclass(frozen=True)
class DiskSeen:
    """One disk of a server: the path of the file it is on, or what it is in the network, which has no ``name``; and the volume
    that is. ``format`` is what the description calls it, None where that was not read."""

    target: str
    path: str | None
    name: str | None
    volume_id: str | None
    format: str | None = None


@dataclass(frozen=True)
class ServerSeen:
    """One server as libvirt has it. ``frozen`` None: it was not asked or did not answer. ``inactive`` None: transient.
    ``saved``: the disks that its saved state belongs to; None: it has none."""

    id: str
    name: str
    running: bool
    disks: Sequence[DiskSeen]
    inactive: Sequence[DiskSeen] | None
    frozen: bool | None = None
    saved: Sequence[DiskSeen] | None = None


@dataclass(frozen=True)
class FreezeSeen:
    """A record that a guest may be frozen; ``overdue``: its deadline has passed, so the watchdog should have thawed it."""

    server_id: str
    operation_id: str
    overdue: bool


@dataclass(frozen=True)
class ScratchSeen:
    """A scratch overlay, and where it lies."""

    directory: Path
    left: Left

    @property
    def path(self) -> Path:
        """As descriptions of servers name it."""
        return self.directory / self.left.name


@dataclass(frozen=True)
class GuestsSeen:
    """What libvirt says, and the scratch directory. ``complete``: every description of this host was read, so a file that is
    not in ``mentioned`` is named by none; otherwise ``why`` says what is missing. ``listed``: ``servers`` are all that libvirt
    knows."""

    complete: bool
    why: str
    servers: Sequence[ServerSeen] = ()
    mentioned: frozenset[str] = frozenset()
    freezes: Sequence[FreezeSeen] = ()
    listed: bool = False
    scratch: Sequence[ScratchSeen] = ()

    @property
    def scratch_paths(self) -> frozenset[str]:
        """Where scratch overlays lie, as descriptions name them."""
        return frozenset(str(each.path) for each in self.scratch)


@dataclass(frozen=True)
class WorkerContext:
    """Everything that was seen. ``unsettled`` volumes changed while it was looked at, or an operation is at work on them;
    ``troubles`` are sentences about what could not be looked at."""

    shares: Sequence[ShareSeen]
    known: Known
    guests: GuestsSeen
    unsettled: frozenset[str]
    troubles: Sequence[str] = ()
    enabled: frozenset[str] = frozenset()  # exports of every enabled backend, also of those that did not answer
    older_than: float = 3600.0  # seconds after which a left-over is one
    now: float = 0.0  # seconds since the epoch
    host: str = ""  # whose libvirt was asked

    @property
    def wall(self) -> datetime:
        """Now, as rows carry times."""
        return datetime.fromtimestamp(self.now, UTC).replace(tzinfo=None)

    def share(self, export: str) -> ShareSeen | None:
        return next((share for share in self.shares if share.export == export), None)

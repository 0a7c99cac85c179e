"""What is asked of the operations that take snapshots under a server, as the journal stores it."""

import os
from pathlib import Path
from typing import Any, Literal

from stillframe.chain.image import Image
from stillframe.compute.clients.chain_limits import ChainLimits
from stillframe.context import Context
from stillframe.host.scratch import Overlay
from stillframe.journal.deadline import Deadline
from stillframe.journal.typed import Args, Intent, Value

Quiesce = Literal["required", "preferred", "never"]


class SetDisk(Value, frozen=True, kw_only=True):
    """One volume of a set. ``target`` is the disk's name in the server (vda), ``size`` in bytes, ``name`` the volume's."""

    volume_id: str
    target: str
    size: int
    name: str | None = None


class SnapshotDisk(SetDisk, frozen=True, kw_only=True):
    """One volume whose disk gets an overlay. ``directory`` is the volume's share on this host. ``active`` is the file before
    the switch and ``format`` its recorded format, ``overlay`` the file after it; a guest sees the ``size`` of both. ``depth``
    is how many files the chain has before, where that was counted."""

    snapshot_id: str
    directory: str
    active: str
    overlay: str
    format: str = "qcow2"  # plans of former releases have none
    depth: int = 0
    chain_limits: ChainLimits = ChainLimits()

    @property
    def share(self) -> Path:
        """The directory of the volume's files."""
        return Path(self.directory)

    @property
    def path_before(self) -> str:
        """The active file before the switch."""
        return os.path.join(self.directory, self.active)

    @property
    def path_after(self) -> str:
        """The active file after the switch."""
        return os.path.join(self.directory, self.overlay)

    @property
    def image(self) -> Image:
        """The overlay as it is made, and as it is until the switch."""
        return Image(self.overlay, "qcow2", self.size, self.active, self.format)


class NativeDisk(SetDisk, frozen=True, kw_only=True):
    """One volume that block storage takes the snapshot of. ``before`` is what its disk opens (``Disk.place``). Under a running
    server ``scratch`` is the file that receives the guest's writes meanwhile, in ``directory``; empty under a stopped one."""

    before: str
    directory: str = ""
    scratch: str = ""

    @property
    def path_after(self) -> str:
        """What the disk opens after the switch."""
        return os.path.join(self.directory, self.scratch) if self.scratch else self.before

    @property
    def overlay(self) -> Overlay:
        """The scratch overlay as it is made."""
        return Overlay(Path(self.directory), self.scratch, self.size)


class ServerSnapshot(Intent, frozen=True, kw_only=True):
    """Switch disks of a server to their overlays at one instant. ``active`` says whether the guest ran when the plan was made,
    ``quiesce`` what is to be done about its filesystems, and ``allow_unfreezable`` which of those need not be frozen (mount
    points, types). ``hook_timeout`` is in seconds, 0: no hooks are looked for; None: as configured. ``wait_until``: how
    long another program's job is waited for."""

    server_id: str
    active: bool
    quiesce: Quiesce
    disks: tuple[SnapshotDisk, ...]
    natives: tuple[NativeDisk, ...] = ()
    allow_unfreezable: tuple[str, ...] = ()
    hook_timeout: int | None = None
    wait_until: Deadline | float | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the disks in the server."""
        return tuple(disk.target for disk in self.all_disks)

    @property
    def all_disks(self) -> tuple["SnapshotDisk | NativeDisk", ...]:
        """Those with overlays first."""
        return (*self.disks, *self.natives)

    @property
    def scratched(self) -> tuple[NativeDisk, ...]:
        """The disks that are switched to a scratch overlay."""
        return tuple(disk for disk in self.natives if disk.scratch)

    @property
    def places_before(self) -> dict[str, str]:
        """By target, what each disk opens before the switch."""
        return {disk.target: disk.path_before for disk in self.disks} | {disk.target: disk.before for disk in self.natives}

    @property
    def places_after(self) -> dict[str, str]:
        """By target, what each disk opens after the switch, and until scratch overlays are committed back."""
        return {disk.target: disk.path_after for disk in self.all_disks}


class SetRequest(Value, frozen=True, kw_only=True):
    """The request by which a client made a set, as it is recorded and compared: who asked, for which server, with what body."""

    project_id: str
    server_id: str
    body: dict[str, Any]


class Caller(Value, frozen=True, kw_only=True):
    """Whose request waits: a context."""

    user_id: str
    project_id: str
    roles: tuple[str, ...]
    request_id: str
    with_service_token: bool = False

    @staticmethod
    def of(context: Context) -> "Caller":
        """Returns what is stored of a context."""
        return Caller(
            user_id=context.user_id,
            project_id=context.project_id,
            roles=context.roles,
            request_id=context.request_id,
            with_service_token=context.with_service_token,
        )

    def to_context(self) -> Context:
        """Returns the context that was stored."""
        return Context(self.user_id, self.project_id, self.roles, self.request_id, self.with_service_token)


class WantedSet(Value, frozen=True, kw_only=True):
    """A set as it is wanted: ``volumes`` are ids, settings that are None are the server's. A policy's has ``policy_id``, a
    client's ``asked``. One that may wait has ``wait`` (seconds), until when that is (``wait_until``) and for
    whom (``context``); one that did wait has the ``operation_id`` of the operation that takes it, which is else the set's."""

    set_id: str
    volumes: Literal["all"] | tuple[str, ...]
    quiesce: Quiesce | None = None
    allow_unfreezable: tuple[str, ...] | None = None
    hook_timeout: int | None = None
    name: str | None = None
    description: str | None = None
    metadata: dict[str, str] | None = None
    policy_id: str | None = None
    asked: SetRequest | None = None
    wait: int | None = None
    wait_until: Deadline | float | None = None
    context: Caller | None = None
    operation_id: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What may differ from the server's settings."""
        return {"quiesce": self.quiesce, "allow_unfreezable": self.allow_unfreezable, "hook_timeout": self.hook_timeout}


class AssistedSnapshot(ServerSnapshot, frozen=True, kw_only=True):
    """Take a set. ``wanted`` is there when it may wait for its turn: what is asked for again if a volume becomes busy before
    the first step. Version 2 knows native volumes, and deadlines that no clock moves."""

    version = 2
    reads = frozenset({1})
    set_id: str
    policy_id: str | None = None
    asked: SetRequest | None = None
    operation_id: str | None = None
    wanted: WantedSet | None = None
    name: str | None = None
    description: str | None = None
    metadata: dict[str, str] = {}
    warnings: tuple[str, ...] = ()


class AssistedVolumeSnapshot(ServerSnapshot, frozen=True, kw_only=True):
    """Nova's own call, for one volume, whose overlay block storage has made."""

    project_id: str

    @property
    def disk(self) -> SnapshotDisk:
        """The volume's disk, the only one."""
        return self.disks[0]


class AwaitServer(Intent, frozen=True, kw_only=True):
    """Wait for a server's turn, then start the set. Version 2 knows deadlines that no clock moves."""

    version = 2
    reads = frozenset({1})
    set_id: str
    server_id: str
    asked: SetRequest | None = None
    wanted: WantedSet


class Wait(Args, frozen=True, kw_only=True):
    """Start the set as soon as the server is free."""

    verb = "wait"

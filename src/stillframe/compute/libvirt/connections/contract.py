"""What each way to connect a volume does. "May be repeated": the same call again has the same outcome.

What block storage tells about an attachment is its connection_info, in the form of Cinder's attachments API: with
``driver_volume_type``, and what Cinder's drivers call ``data`` laid flat. It may hold a password.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from stillframe.compute.libvirt.domain_xml import Disk
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.worker.context import WorkerContext
from stillframe.host.scratch import Overlay

Document = dict[str, Any]


@dataclass(frozen=True)
class Attachment:
    """One volume at one server. ``info`` is its connection_info."""

    id: str
    volume_id: str
    info: Mapping[str, Any]


class Connection(Protocol):
    """One way: a module."""

    def source(self, worker: WorkerContext, attachment: Attachment) -> Document:
        """Returns what the journal keeps of a connection_info and the disk is made from, never a password; mounts what must be
        mounted. May be repeated. Raises StepFailed for one that this host cannot use, ShareUnavailable."""

    def prepare(self, worker: WorkerContext, attachment: Attachment, source: Document) -> list[str]:
        """Proves that the volume is there and fit to be opened, and makes what QEMU needs beside the disk's XML, before the
        server gets it. Returns what was repaired, in sentences. May be repeated. Raises what says why not."""

    def disk(self, volume_id: str, source: Document, target: str) -> str:
        """Returns the disk element."""

    def recorded(self, info: Mapping[str, Any]) -> str:
        """What block storage records, in the words of ``Disk.words``."""

    def is_same(self, disk: Disk, info: Mapping[str, Any]) -> bool:
        """Tells whether a disk of a description is what block storage records."""

    def check_reachable(self, worker: WorkerContext, attachment: Attachment) -> None:
        """Proves that the volume answers this host now. Raises what says why not."""

    def check_start(self, worker: WorkerContext, server: Server, disk: Disk, attachment: Attachment) -> None:
        """Proves that a server can be started with the disk; nothing is changed. Raises what says why not."""

    def before_start(self, worker: WorkerContext, server: Server, disk: Disk, attachment: Attachment) -> None:
        """Makes what QEMU needs, after ``check_start`` of every disk. May be repeated."""

    def commit_scratch(self, worker: WorkerContext, attachment: Attachment, overlay: Overlay) -> None:
        """Writes what lies in a scratch overlay to the volume, which no guest has open. May be repeated. Raises what says why
        not."""

    def release(self, worker: WorkerContext, attachment_id: str) -> None:
        """Removes what ``prepare`` and ``before_start`` made, when no description has the disk. May be repeated."""

"""What libvirt and the freeze records say about this host's servers, as the doctor's values. It starts nothing."""

import html
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stillframe.compute.libvirt import domain_xml
from stillframe.compute.libvirt.domain_xml import Adopted
from stillframe.compute.quiesce import record as freeze_record
from stillframe.config import Settings
from stillframe.errors import AgentFailed, StillframeError
from stillframe.host import hypervisor, private_libvirt, scratch
from stillframe.host.hypervisor import DomainView, Hypervisor
from stillframe.volumes.recovery.doctor.seen import DiskSeen, FreezeSeen, GuestsSeen, ScratchSeen, ServerSeen

AGENT_SECONDS = 3
_SAVED_HEADER = struct.Struct("<16s5I56x")
_LONGEST_DESCRIPTION = 16 << 20
# File names as a share or the scratch directory has them, anywhere in a description.
_NAMES = re.compile(r"\.(?:tmp|trash|orphan)\.[A-Za-z0-9._-]+|(?:volume|scratch)-[A-Za-z0-9._-]+")


def look(settings: Settings, busy: frozenset[str], adopted: Mapping[str, Adopted]) -> GuestsSeen:
    """Asks libvirt and lists the scratch directory. If our own daemon does not run, its descriptions are read from its files
    instead. The agents of ``busy`` servers are not asked, because an operation may be about to freeze or thaw them. ``adopted``
    holds, by server, the disks that are volumes under names of their own."""
    directory = settings.scratch_dir
    overlays = [ScratchSeen(directory, each) for each in scratch.look(directory)]
    return replace(_described(settings, busy, adopted), scratch=overlays)


def _described(settings: Settings, busy: frozenset[str], adopted: Mapping[str, Adopted]) -> GuestsSeen:
    freezes = _freezes(settings)
    private = None if settings.compute.libvirt_uri else settings.state_dir / "libvirt"
    connection = Hypervisor(settings.compute.libvirt_uri or private_libvirt.uri(settings.state_dir / "libvirt"))
    try:
        views = hypervisor.list_domains(connection)
        servers = [_server(connection, view, busy, adopted.get(view.uuid, {})) for view in views]
    except StillframeError as error:
        return _from_files(private, freezes) if private else GuestsSeen(False, error.message, freezes=freezes)
    finally:
        connection.close()
    dark = [view.name for view in views if view.saved and view.saved_xml is None]
    if dark:
        why = f"the saved memory of {', '.join(dark)} cannot be read, so it is not known which files it needs"
        return GuestsSeen(False, why, servers, freezes=freezes, listed=True)
    texts = [text for view in views for text in (view.xml, view.inactive_xml, view.saved_xml) if text]
    return GuestsSeen(True, "", servers, _mentioned(texts), freezes, listed=True)


def _from_files(private: Path, freezes: Sequence[FreezeSeen]) -> GuestsSeen:
    """Our own daemon does not run. What it would say is in its directories, one description per file, live ones in run."""
    if not private.is_dir():
        return GuestsSeen(
            False, "compute has never run with this state directory, and no libvirt_uri is configured", freezes=freezes
        )
    try:
        texts = [path.read_text() for place in ("etc/qemu", "run/qemu") for path in (private / place).glob("*.xml")]
        texts += [_saved_text(path) for path in (private / "lib/qemu/save").glob("*.save")]
    except OSError as error:
        return GuestsSeen(False, f"the descriptions below {private} cannot be read: {error}", freezes=freezes)
    why = "libvirt does not run; its descriptions were read from its files, and no agent was asked"
    return GuestsSeen(True, why, (), _mentioned(texts), freezes)


def _saved_text(path: Path) -> str:
    """Returns the description in a managed save image, which follows a header of 92 bytes (libvirt 9.0, qemu_saveimage.h)."""
    with path.open("rb") as image:
        header = image.read(_SAVED_HEADER.size)
        length = _SAVED_HEADER.unpack(header)[2] if len(header) == _SAVED_HEADER.size else 0
        return image.read(min(length, _LONGEST_DESCRIPTION)).decode(errors="replace")


def _mentioned(texts: Sequence[str]) -> frozenset[str]:
    return frozenset(name for text in texts for name in _NAMES.findall(html.unescape(text)))


def _freezes(settings: Settings) -> list[FreezeSeen]:
    now = freeze_record.boot_seconds()
    return [
        FreezeSeen(each.domain, each.operation, each.deadline < now) for each in freeze_record.read_all(settings.freeze_dir)
    ]


def _server(connection: Hypervisor, view: DomainView, busy: frozenset[str], adopted: Adopted) -> ServerSeen:
    described = domain_xml.read(view.xml, adopted)
    inactive = domain_xml.read(view.inactive_xml, adopted) if view.inactive_xml else None
    asked = view.running and described.has_agent_channel and view.uuid not in busy
    frozen = _frozen(connection, view.uuid) if asked and any(disk.volume_id for disk in described.disks) else None
    saved = domain_xml.read(view.saved_xml, adopted) if view.saved_xml else None
    return ServerSeen(
        view.uuid,
        view.name,
        view.running,
        _disks(described),
        _disks(inactive) if inactive is not None else None,
        frozen,
        _disks(saved) if saved is not None else None,
    )


def _disks(described: domain_xml.Description) -> list[DiskSeen]:
    return [DiskSeen(disk.target, disk.place, disk.name, disk.volume_id, disk.format) for disk in described.disks]


def _frozen(connection: Hypervisor, server_id: str) -> bool | None:
    """Asks the agent; None when it does not answer."""
    try:
        status = hypervisor.agent_command(connection.domain(server_id), "guest-fsfreeze-status", None, AGENT_SECONDS)
    except AgentFailed:
        return None
    return bool(status == "frozen")

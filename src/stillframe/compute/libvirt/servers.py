"""Servers as libvirt shows them: found, checked for the caller's project, their disks compared live against inactive."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from stillframe.chain import names
from stillframe.compute.libvirt import domain_state, domain_xml, saved_notes
from stillframe.compute.libvirt.domain_state import Condition
from stillframe.compute.libvirt.domain_xml import Adopted, Description, Disk
from stillframe.compute.worker.context import WorkerContext
from stillframe.context import Context
from stillframe.db import adopted_disks
from stillframe.errors import BadRequest, ChainConflict, HypervisorUnavailable, NotFound
from stillframe.host import hypervisor
from stillframe.host.hypervisor import DomainView


@dataclass(frozen=True)
class Server:
    """One domain with its descriptions. A transient domain has no inactive one; one that is saved has a third, which a start
    uses in place of the inactive one. ``saved_elsewhere``: see ``saved_notes``; ``adopted``: see ``domain_xml``."""

    view: DomainView
    project_id: str
    user_id: str
    saved_elsewhere: bool = False
    adopted: Adopted = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The server's id, which is the domain's UUID."""
        return self.view.uuid

    @cached_property
    def live(self) -> Description:
        """What a running server has; of a stopped one what its definition says."""
        return domain_xml.read(self.view.xml, self.adopted)

    @cached_property
    def inactive(self) -> Description | None:
        """What the next start uses; None for a domain without a definition of its own."""
        return domain_xml.read(self.view.inactive_xml, self.adopted) if self.view.inactive_xml else None

    @cached_property
    def saved(self) -> Description | None:
        """What a saved state (managed save) would be resumed with; None where there is none."""
        return domain_xml.read(self.view.saved_xml, self.adopted) if self.view.saved_xml else None

    @property
    def descriptions(self) -> tuple[Description, ...]:
        """All descriptions of the server: live, inactive, saved. Each may name files."""
        return tuple(each for each in (self.live, self.inactive, self.saved) if each is not None)

    @property
    def condition(self) -> Condition:
        """Returns what may be done with the server in its present state."""
        view = self.view
        return domain_state.classify(view.state, view.reason, view.active, view.saved, self.saved_elsewhere)

    def refuse_unless(self, decision: str) -> None:
        """Raises Conflict when the state does not allow a decision of ``domain_state.DECISIONS``."""
        self.condition.refuse(self.id, decision)

    @property
    def described(self) -> tuple[str, ...]:
        """The texts of its descriptions."""
        return tuple(xml for xml in (self.view.xml, self.view.inactive_xml, self.view.saved_xml) if xml)

    @property
    def targets(self) -> set[str]:
        """Disk names taken in either description."""
        return {disk.target for description in self.descriptions for disk in description.disks}

    def disk_of(self, volume_id: str) -> Disk | None:
        """The volume's disk as the guest has it now, else as it would have it after a start."""
        return next((disk for each in self.descriptions if (disk := each.disk_of(volume_id))), None)

    def volumes(self) -> list[tuple[str, Disk]]:
        """Returns (volume id, disk) for every volume named by a description."""
        found: dict[str, Disk] = {}
        for description in self.descriptions:
            for disk in description.disks:
                if disk.volume_id and disk.volume_id not in found:
                    found[disk.volume_id] = disk
        return list(found.items())

    def names_file(self, path: str) -> bool:
        """Tells whether a description names the file as a disk's source or anywhere else in it (I4)."""
        return any(domain_xml.names_text(xml, path) for xml in self.described)


def _server(worker: WorkerContext, view: DomainView) -> Server:
    described = domain_xml.read(view.xml)
    project = described.project_id or worker.settings.default_project
    saved_notes.follow(worker.settings.state_dir, view)
    elsewhere = saved_notes.is_saved_elsewhere(worker.settings.state_dir, view)
    with worker.database.read() as connection:
        adopted = adopted_disks.by_place(adopted_disks.of_server(connection, view.uuid))
    return Server(view, project, described.user_id or "", elsewhere, adopted)


def list_all(worker: WorkerContext, context: Context, all_projects: bool) -> list[Server]:
    """Returns the project's servers, for services and, with ``all_projects``, for administrators those of all. Raises
    HypervisorUnavailable."""
    found = [_server(worker, view) for view in hypervisor.list_domains(worker.hypervisor)]
    if context.is_service or (context.is_admin and all_projects):
        return found
    return [server for server in found if server.project_id == context.project_id]


def find(worker: WorkerContext, context: Context, server_id: str) -> Server:
    """Returns the server. Raises NotFound, the same for a missing one and one of another project, and after the same work."""
    try:
        wanted = names.canonical_id(server_id)
    except BadRequest as error:
        raise NotFound(f"Instance {server_id} could not be found.") from error
    try:
        server = _server(worker, hypervisor.find(worker.hypervisor, wanted))
    except NotFound:
        server = None
    if server is not None and (context.sees_all_projects or server.project_id == context.project_id):
        return server
    if not context.sees_all_projects:
        _look_all_the_same(worker, wanted, found=server is not None)
    raise NotFound(f"Instance {server_id} could not be found.")


def _look_all_the_same(worker: WorkerContext, server_id: str, found: bool) -> None:
    """Makes a refusal cost the same calls whether the server exists or not: instead of a missing server, another one is read.
    Otherwise the time of an answer would tell which ids exist."""
    other = hypervisor.stand_in(worker.hypervisor, server_id)
    if other is not None and not found:
        with suppress(NotFound):  # undefined meanwhile
            _server(worker, hypervisor.view(other))


def look(worker: WorkerContext, server_id: str) -> Server:
    """Reads the server again, for an operation. Raises NotFound, HypervisorUnavailable."""
    return _server(worker, hypervisor.find(worker.hypervisor, server_id))


def check_same(server: Server, disk: Disk) -> None:
    """Raises ChainConflict when the live and the inactive description name different files, or units in the network (R18)."""
    if server.inactive is None:
        return
    other = next((each for each in server.inactive.disks if each.target == disk.target), None)
    if other is None or (other.place, other.format) != (disk.place, disk.format):
        raise ChainConflict(
            f"disk {disk.target} of server {server.id} is {disk.words} now, but would be {disk.beside(other)}"
            " after a restart. Correct the definition (virsh edit) before the server stops, then repeat"
        )


def check_format(server: Server, disk: Disk, info: Mapping[str, Any]) -> None:
    """Raises ChainConflict when the server has a volume's file as another format than the one that is recorded in the
    ``connection_info``. A raw file that is opened as qcow2 is read by what its guest wrote, and may name any file of the host
    (R3); a qcow2 file that is opened as raw is overwritten. A format that nobody recorded cannot differ (I6)."""
    recorded = info.get("format") or disk.format
    if recorded != disk.format:
        raise ChainConflict(
            f"disk {disk.target} of server {server.id} has {disk.name} as {disk.format}, but block storage records {recorded}."
            " An administrator corrects the type of the disk's driver in the definition while the server is stopped (virsh"
            " edit); 'stillframe doctor' tells more"
        )


def list_everything(worker: WorkerContext, sure: bool = False) -> list[Server]:
    """Returns every server of this host, to check what their descriptions name. With ``sure`` raises HypervisorUnavailable
    while a saved state cannot be read: it may need any file (I12, I13)."""
    views = hypervisor.list_domains(worker.hypervisor)
    dark = next((view for view in views if is_dark(view)), None)
    if sure and dark is not None:
        raise unreadable(dark)
    return [_server(worker, view) for view in views]


def is_dark(view: DomainView) -> bool:
    """Tells whether the server has a saved state that cannot be read, so that the files it needs are not known."""
    return view.saved and view.saved_xml is None


def unreadable(view: DomainView) -> HypervisorUnavailable:
    """What is told of one that ``is_dark``."""
    return HypervisorUnavailable(
        f"the saved memory of server {view.uuid} ({view.name}) cannot be read, so it is not known which files it needs. See"
        " why libvirt does not read it ('virsh managedsave-dumpxml'), and put that right; only if nobody needs that"
        " memory any more, and after a copy of it, 'virsh managedsave-remove' ends this"
    )

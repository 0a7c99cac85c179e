"""Which servers use a volume or a file: by libvirt's descriptions, wherever it keeps them, and by attachments under way."""

import os
from collections.abc import Iterator
from pathlib import Path

from stillframe.chain import names
from stillframe.compute.libvirt import domain_xml, servers
from stillframe.compute.operations.attachments import AttachVolume
from stillframe.compute.worker.context import WorkerContext
from stillframe.context import Context
from stillframe.db import adopted_disks, operations
from stillframe.errors import BadRequest
from stillframe.host import hypervisor, reach, users
from stillframe.host.hypervisor import DomainView
from stillframe.journal.operation import intent_of


def users_of_volume(worker: WorkerContext, context: Context, volume_id: str) -> list[dict[str, str]]:
    """Returns ``{"server_id", "name", "where"}`` for each description in which a file of the volume stands anywhere: as a
    disk's source, a backing file. A serial does not count: a copied domain keeps it. ``where`` is live, inactive or saved; it
    is "attaching" for an attachment that is under way. Raises HypervisorUnavailable when that is not known."""
    volume_id = names.canonical_id(volume_id, "volume_id")
    wanted = _texts(worker, volume_id)
    coming = _coming(worker, volume_id)  # first: an attachment that has ended when libvirt is asked is in a description by then
    found = coming + [
        {"server_id": view.uuid, "name": view.name, "where": where}
        for view in hypervisor.list_domains(worker.hypervisor)
        for where, xml in _descriptions(view, sure=True)
        if any(each in text.lower() for text in domain_xml.texts(xml) for each in wanted)
    ]
    return [each for number, each in enumerate(found) if each not in found[:number]]


def _texts(worker: WorkerContext, volume_id: str) -> list[str]:
    """What a description that names a file of the volume holds, in lower case: the beginning of its files' names, and of an
    adopted one the path of its base."""
    with worker.database.read() as connection:
        rows = adopted_disks.list_all(connection)
    return [names.base_name(volume_id), *(row["file"].lower() for row in rows if row["volume_id"] == volume_id)]


def _coming(worker: WorkerContext, volume_id: str) -> list[dict[str, str]]:
    with worker.database.read() as connection:
        rows = operations.unfinished_of(connection, "compute", "attach_volume")
    asked = [intent_of(row, AttachVolume) for row in rows]
    return [{"server_id": each.server_id, "name": "", "where": "attaching"} for each in asked if each.volume_id == volume_id]


def _descriptions(view: DomainView, sure: bool) -> Iterator[tuple[str, str]]:
    yield ("live" if view.active else "inactive"), view.xml
    if view.inactive_xml is not None:
        yield "inactive", view.inactive_xml
    if view.saved_xml is not None:
        yield "saved", view.saved_xml
    elif sure and servers.is_dark(view):
        raise servers.unreadable(view)


def named_files(worker: WorkerContext, _context: Context, directory: str, sure: bool = False) -> dict[str, list[str]]:
    """Returns the ids of the servers whose descriptions name a file of ``directory``, an absolute path, by the file's name.

    A description may name the directory by another mount point or the file by a link: both are followed, but not through a file
    system that does not answer, so that other shares do not wait for it. Raises BadRequest, HypervisorUnavailable; with
    ``sure`` also for a saved state that cannot be read, because the files it needs are not known.
    """
    if not os.path.isabs(directory) or "\0" in directory:
        raise BadRequest(f"the directory must be an absolute path, not {directory[:80]!r}")
    place = users.identity(Path(directory))
    found: dict[str, list[str]] = {}
    for view in hypervisor.list_domains(worker.hypervisor):
        named = {name for _where, xml in _descriptions(view, sure) for name in _names(xml, directory, place)}
        for name in sorted(named):
            found.setdefault(name, []).append(view.uuid)
    return found


def _names(xml: str, directory: str, place: users.Identity | None) -> Iterator[str]:
    for path in domain_xml.paths(xml):
        end = reach.followed(path)
        for each in {path, end or path}:
            parent = os.path.dirname(each)
            same = end is not None and place is not None and users.identity(Path(parent)) == place
            if same or parent == os.path.normpath(directory):
                yield os.path.basename(each)

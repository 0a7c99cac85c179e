"""Removes libvirt secrets that no server needs: of detachments that were cut short, or made without us."""

import logging

from stillframe.compute.libvirt import connector, servers
from stillframe.compute.libvirt.connections import iscsi
from stillframe.compute.worker.context import WorkerContext
from stillframe.db import operations
from stillframe.host import libvirt_secrets

LOG = logging.getLogger(__name__)


def look(worker: WorkerContext) -> None:
    """Removes those made here that no description names. Raises HypervisorUnavailable when that is not known.

    The order counts: what an attachment made before the first look is in the journal, or in a description, at the later ones.
    """
    made = libvirt_secrets.usages(worker.hypervisor)
    own = {id_ for id_, usage in made.items() if iscsi.is_own(usage, connector.initiator(worker.settings))} if made else set()
    if not own:
        return
    with worker.database.read() as connection:
        if operations.unfinished_of(connection, "compute", "attach_volume"):
            return
    for id_ in sorted(own - _named(worker)):
        libvirt_secrets.remove(worker.hypervisor, id_)
        LOG.info("removed the password of attachment %s, which no server has", id_)


def _named(worker: WorkerContext) -> set[str]:
    found = servers.list_everything(worker, sure=True)
    disks = (disk for server in found for description in server.descriptions for disk in description.disks)
    return {disk.network.secret for disk in disks if disk.network is not None and disk.network.secret is not None}

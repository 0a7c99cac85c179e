"""Thaws a guest and believes only the agent's own word for it (I7)."""

import logging
from pathlib import Path

from stillframe.compute import freeze_record
from stillframe.compute.freeze_record import FreezeRecord
from stillframe.errors import AgentFailed, NotFound, StillframeError
from stillframe.host import hypervisor
from stillframe.host.hypervisor import Hypervisor

LOG = logging.getLogger(__name__)
AGENT_SECONDS = 3


def try_thaw(connection: Hypervisor, directory: Path, record: FreezeRecord) -> bool:
    """Sends one thaw, reads the status back, and removes the record when the guest is thawed or runs no more.

    A late answer to an earlier freeze comes first in the channel, so a status read after the thaw is the last word
    (finding 3). Returns whether the guest is known not to be frozen.
    """
    if freeze_record.read(directory, record.domain) != record:
        return True
    try:
        if not _is_thawed(connection, record.domain):
            return False
    except StillframeError as error:
        LOG.warning("server %s may still be frozen: %s", record.domain, error.message)
        return False
    freeze_record.clear(directory, record)
    return True


def _is_thawed(connection: Hypervisor, domain_id: str) -> bool:
    try:
        domain = connection.domain(domain_id)
        if not hypervisor.view(domain).active:
            return True
    except NotFound:
        return True
    try:
        hypervisor.agent_command(domain, "guest-fsfreeze-thaw", None, AGENT_SECONDS)
    except AgentFailed as error:
        LOG.info("thaw of server %s: %s", domain_id, error.message)
    return bool(hypervisor.agent_command(domain, "guest-fsfreeze-status", None, AGENT_SECONDS) == "thawed")

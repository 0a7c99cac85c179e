"""Thaws a guest and believes only the agent's own word for it (I7); then puts back what was changed for the freeze."""

import logging
from pathlib import Path
from typing import Any

from stillframe.compute.quiesce import expedite
from stillframe.compute.quiesce import record as freeze_record
from stillframe.compute.quiesce.record import FreezeRecord
from stillframe.errors import AgentFailed, NotFound, StillframeError
from stillframe.host import hypervisor
from stillframe.host.hypervisor import Hypervisor

LOG = logging.getLogger(__name__)
AGENT_SECONDS = 3
PUT_BACK_SECONDS = 60.0  # past the deadline; a guest that is thawed must not be refused snapshots for ever


def try_thaw(connection: Hypervisor, directory: Path, record: FreezeRecord) -> bool:
    """Sends one thaw, reads the status back, and removes the record when the guest is thawed and as before, or runs no more.

    A late answer to an earlier freeze comes first in the channel, so a status read after the thaw is the last word
    (F3). Returns whether there is nothing left to do.
    """
    if record.suspended:
        with freeze_record.alone(directory, record.domain):
            return _resume(connection, directory, record)
    if freeze_record.read(directory, record.domain) != record:
        return True
    try:
        domain = _running(connection, record.domain)
        if domain is not None and not (_is_thawed(domain) and as_before(domain, record)):
            return False
    except StillframeError as error:
        LOG.warning("server %s may still be frozen: %s", record.domain, error.message)
        return False
    freeze_record.clear(directory, record)
    return True


def _resume(connection: Hypervisor, directory: Path, record: FreezeRecord) -> bool:
    """Resumes a suspended guest. Worker and watchdog exclude each other: otherwise one of them, delayed after it read the
    record, could resume the guest and so undo a later pause or the next suspension."""
    if freeze_record.read(directory, record.domain) != record:
        return True
    try:
        hypervisor.resume_suspended(_running(connection, record.domain))
    except StillframeError as error:
        LOG.warning("server %s may still be held: %s", record.domain, error.message)
        return False
    freeze_record.clear(directory, record)
    return True


def as_before(domain: Any, record: FreezeRecord) -> bool:
    """After the thaw: gives the kernel setting its former value, if it was changed. Returns False when the agent did not do it
    and is to be asked again, for PUT_BACK_SECONDS past the deadline at most. Raises HypervisorUnavailable."""
    if record.rcu_expedited is None:
        return True
    try:
        expedite.put_back(domain, record.rcu_expedited, AGENT_SECONDS)
    except AgentFailed as error:
        if freeze_record.boot_seconds() < record.deadline + PUT_BACK_SECONDS:
            LOG.info("%s of server %s is still to be put back: %s", expedite.KNOB, record.domain, error.message)
            return False
        LOG.error("%s of server %s could not be put back to 0: %s", expedite.KNOB, record.domain, error.message)
    return True


def _running(connection: Hypervisor, domain_id: str) -> Any | None:
    try:
        domain = connection.domain(domain_id)
        return domain if hypervisor.view(domain).active else None
    except NotFound:
        return None


def _is_thawed(domain: Any) -> bool:
    try:
        hypervisor.agent_command(domain, "guest-fsfreeze-thaw", None, AGENT_SECONDS)
    except AgentFailed as error:
        LOG.info("thaw of server %s: %s", domain.UUIDString(), error.message)
    return bool(hypervisor.agent_command(domain, "guest-fsfreeze-status", None, AGENT_SECONDS) == "thawed")

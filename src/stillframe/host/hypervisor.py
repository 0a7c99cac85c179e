"""Calls libvirt, one function per verb, and turns its errors into ours. Facts about libvirt here were seen with 9.0.0 (Debian
12)."""

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import libvirt
import libvirt_qemu

from stillframe.errors import (
    AccessRefused,
    AgentFailed,
    AnotherJob,
    Conflict,
    HookFailed,
    HypervisorRefused,
    HypervisorUnavailable,
    NotFound,
    StillframeError,
)
from stillframe.host import wording
from stillframe.printable import escaped, without_directories

LOG = logging.getLogger(__name__)
AGENT_ANSWER_LIMIT = 1 << 20
_WORDS = 2000  # characters of libvirt's message that are quoted
# What qemu-ga 7.2 says about its --fsfreeze-hook (execute_fsfreeze_hook, qga/commands-posix.c).
HOOK = re.compile(
    r"fsfreeze hook has failed with status \d+|fsfreeze hook has terminated abnormally|can't access fsfreeze hook"
)
_LOST = {
    libvirt.VIR_ERR_SYSTEM_ERROR,
    libvirt.VIR_ERR_INTERNAL_ERROR,
    libvirt.VIR_ERR_RPC,
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_INVALID_CONN,
}
_AGENT = {
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
    libvirt.VIR_ERR_AGENT_UNSYNCED,
    getattr(libvirt, "VIR_ERR_AGENT_COMMAND_TIMEOUT", -1),
    getattr(libvirt, "VIR_ERR_AGENT_COMMAND_FAILED", -1),
}
_FORBIDDEN = {
    libvirt.VIR_ERR_ACCESS_DENIED,
    libvirt.VIR_ERR_OPERATION_DENIED,
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_CANCELLED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
}
_BUSY = ("state change lock", "max_queued limit")
libvirt.registerErrorHandler(lambda _context, _error: None, None)


@dataclass(frozen=True)
class DomainView:
    """One domain as libvirt shows it now. ``xml`` is the live description; for a stopped domain, the inactive one.

    ``saved``: libvirt keeps the domain's memory in a file (managed save), and a start restores it. ``saved_xml`` is the
    description in that file, which such a start uses instead of the inactive one; None when it cannot be read.
    """

    uuid: str
    name: str
    state: int
    reason: int
    active: bool
    xml: str
    inactive_xml: str | None
    saved: bool = False
    saved_xml: str | None = None

    @property
    def running(self) -> bool:
        return self.state in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED)

    @property
    def paused(self) -> bool:
        return self.active and not self.running


class Hypervisor:
    """One libvirt URI. It opens its connection when one is first needed, and again after the daemon was gone. ``revive``
    restarts a daemon that does not answer; None for a daemon that is not ours."""

    def __init__(self, uri: str, revive: Callable[[], object] | None = None) -> None:
        self.uri = uri
        self._revive = revive
        self._lock = threading.Lock()
        self._connection: Any = None

    def connection(self) -> Any:
        """Returns an open connection. Raises HypervisorUnavailable."""
        with self._lock:
            if self._connection is not None and not _is_open(self._connection):
                self._connection = None
            if self._connection is None:
                self._connection = self._open()
            return self._connection

    def _open(self) -> Any:
        try:
            return libvirt.open(self.uri)
        except libvirt.libvirtError:
            if self._revive is not None:
                self._revive()
        try:
            return libvirt.open(self.uri)
        except libvirt.libvirtError as error:
            raise HypervisorUnavailable(f"libvirt at {self.uri} does not answer: {escaped(str(error))}") from error

    def domain(self, uuid: str) -> Any:
        """Returns libvirt's domain object. Raises NotFound, HypervisorUnavailable."""
        with translated(f"server {uuid}"):
            return self.connection().lookupByUUIDString(uuid)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                with suppress(libvirt.libvirtError):
                    self._connection.close()
                self._connection = None


def _is_open(connection: Any) -> bool:
    try:
        return bool(connection.isAlive()) and connection.getLibVersion() > 0
    except libvirt.libvirtError:
        return False


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raises libvirt's errors as ours: no such domain, the daemon is gone or answers too late, the agent failed, another job
    holds the domain (libvirt 9.0 waits 30 s for it), access is refused, or the call was refused."""
    try:
        yield
    except libvirt.libvirtError as error:
        LOG.info("libvirt on a call for %s: %s", what, error)
        raise _translated(error, what) from error


def _translated(error: libvirt.libvirtError, what: str) -> StillframeError:
    code, words = error.get_error_code(), _words(error)
    if code == libvirt.VIR_ERR_NO_DOMAIN:
        return NotFound(f"{what} does not exist in libvirt")
    if code in _AGENT:
        return AgentFailed(f"the guest agent of {what} did not answer: {words}")
    if _is_away(error):
        return HypervisorUnavailable(f"libvirt went away during a call for {what}: {words}")
    if code in (libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_ERR_OPERATION_FAILED) and any(each in words for each in _BUSY):
        return AnotherJob(f"libvirt is busy with another job on {what}: {words}")
    if code == libvirt.VIR_ERR_OPERATION_TIMEOUT:
        return HypervisorUnavailable(f"libvirt did not answer a call for {what} in time: {words}")
    # libvirt passes on the refusals of QEMU and of the system as text, under codes of every kind.
    kind = AccessRefused if code in _FORBIDDEN or wording.is_forbidden(words) else HypervisorRefused
    return kind(f"libvirt refused a call for {what}: {words}", libvirt_code=code)


def _words(error: libvirt.libvirtError) -> str:
    """Returns libvirt's message on one line, without the host's directories, and no longer than a person reads. It may quote a
    guest (R23): libvirt 9.0 repeats all 10 MiB of an answer that is not JSON."""
    words = escaped(without_directories(str(error)[:_WORDS]))
    return words if len(words) <= _WORDS else f"{words[:_WORDS]}..."


def _is_away(error: libvirt.libvirtError) -> bool:
    """Tells whether the connection broke or was found broken."""
    code = error.get_error_code()
    by_the_way = error.get_error_domain() in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE)
    return code in (libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_INVALID_CONN) or (code in _LOST and by_the_way)


def view(domain: Any) -> DomainView:
    uuid = domain.UUIDString()
    with translated(f"server {uuid}"):
        state, reason = domain.state()
        active = bool(domain.isActive())
        xml = domain.XMLDesc(0)
        inactive = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) if domain.isPersistent() else None
        saved, saved_xml = (False, None) if active else _saved(domain)
        return DomainView(uuid, domain.name(), state, reason, active, xml, inactive, saved, saved_xml)


def _saved(domain: Any) -> tuple[bool, str | None]:
    """A saved image may be used or removed between two calls. One that exists and cannot be read is damaged."""
    if not domain.hasManagedSaveImage(0):
        return False, None
    try:
        return True, domain.managedSaveGetXMLDesc(0)
    except libvirt.libvirtError:
        return bool(domain.hasManagedSaveImage(0)), None


def find(hypervisor: Hypervisor, uuid: str) -> DomainView:
    """Raises NotFound, HypervisorUnavailable."""
    return view(hypervisor.domain(uuid))


def stand_in(hypervisor: Hypervisor, uuid: str) -> Any | None:
    """Returns some domain, the same one for an id as long as the list of domains does not change; None when there is none."""
    with translated("the list of servers"):
        found = sorted(hypervisor.connection().listAllDomains(), key=lambda domain: str(domain.UUIDString()))
    return found[int(uuid.replace("-", ""), 16) % len(found)] if found else None


def list_domains(hypervisor: Hypervisor) -> list[DomainView]:
    with translated("the list of servers"):
        domains = hypervisor.connection().listAllDomains()
    views = []
    for domain in domains:
        try:
            views.append(view(domain))
        except NotFound:
            continue  # undefined since it was listed
    return views


def switch_disks(domain: Any, snapshot_xml: str) -> None:
    """Switches every disk that the XML names to its overlay in one QEMU transaction: all or none.

    The overlays exist already (REUSE_EXT), and libvirt keeps no record of a snapshot (NO_METADATA). libvirt's QUIESCE flag is
    not used, because it freezes too early and without a bound. An error does *not* mean that nothing was switched (F13): the
    caller reads the XML. For a stopped domain the same call rewrites its definition.
    """
    flags = (
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
        | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
        | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    )
    with translated(f"server {domain.UUIDString()}"):
        domain.snapshotCreateXML(snapshot_xml, flags)


def attach_device(domain: Any, xml: str, *, live: bool, config: bool) -> None:
    with translated(f"server {domain.UUIDString()}"):
        domain.attachDeviceFlags(xml, _affect(live, config))


def ask_to_release(domain: Any, alias: str) -> None:
    """Asks a running guest to release the device with that alias, which its live XML names.

    It returns at once (libvirt >= 4.4), so the caller must read the live XML until the device is gone. ``detachDeviceFlags``
    would wait five seconds for the guest's answer (qemuDomainRemoveDeviceWaitTime).
    """
    with translated(f"server {domain.UUIDString()}"):
        domain.detachDeviceAlias(alias, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def detach_from_definition(domain: Any, xml: str) -> None:
    with translated(f"server {domain.UUIDString()}"):
        domain.detachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def update_definition(domain: Any, disk_xml: str) -> None:
    """Replaces the disk with the same target in a domain's definition; a running guest is not touched."""
    with translated(f"server {domain.UUIDString()}"):
        domain.updateDeviceFlags(disk_xml, libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def _affect(live: bool, config: bool) -> int:
    flags = libvirt.VIR_DOMAIN_AFFECT_LIVE if live else 0
    return int(flags | (libvirt.VIR_DOMAIN_AFFECT_CONFIG if config else 0))


POWER: dict[str, Callable[[Any], object]] = {
    "start": lambda domain: domain.create(),
    "stop": lambda domain: domain.shutdown(),
    "destroy": lambda domain: domain.destroy(),
    "pause": lambda domain: domain.suspend(),
    "unpause": lambda domain: domain.resume(),
    "reboot": lambda domain: domain.reset(),
    "wake": lambda domain: domain.pMWakeup(0),
}


def power(domain: Any, action: str) -> None:
    """Changes the power state. ``action`` is a key of POWER. Raises Conflict when the guest has changed its state by itself.

    A guest that goes down drops the agent's channel. If libvirt 9.0 sees that before QEMU's event, the agent's answer is lost.
    libvirt then presses the power button instead, which is refused for a domain that is not running. So a stop that was obeyed
    ends in an error (qemuDomainShutdownFlags).
    """
    with translated(f"server {domain.UUIDString()}"):
        try:
            POWER[action](domain)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or action == "start" or not _is_down(domain):
                raise
            if action not in ("stop", "destroy"):
                raise Conflict(f"server {domain.UUIDString()} is going down, or is down already") from error


def _is_down(domain: Any) -> bool:
    return domain.state()[0] in (libvirt.VIR_DOMAIN_SHUTDOWN, libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED)


def suspend(domain: Any) -> None:
    """Suspends a running guest; QEMU drains and flushes its disks before this returns (qemu 7.2, vm_stop)."""
    with translated(f"server {domain.UUIDString()}"):
        domain.suspend()


def flush(domain: Any) -> None:
    """Makes QEMU drain and flush the disks of a guest that is suspended already. Raises when QEMU does not answer.

    QEMU's ``stop`` does so in any state (qemu 7.2, do_vm_stop), but libvirt 9.0's suspend does not call it then.
    """
    with translated(f"server {domain.UUIDString()}"):
        libvirt_qemu.qemuMonitorCommand(domain, '{"execute": "stop"}', libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT)


def resume_suspended(domain: Any | None) -> None:
    """Resumes a guest that ``suspend`` suspended. A guest that is gone, runs, or was paused by an I/O error stays as it is."""
    if domain is None:
        return
    with translated(f"server {domain.UUIDString()}"):
        state, reason = domain.state()
        if state == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_USER:
            domain.resume()


def run_id(domain: Any) -> int:
    """Returns the number that libvirt gave to this start of the domain; -1 when it does not run."""
    with translated(f"server {domain.UUIDString()}"):
        return int(domain.ID())


def define(hypervisor: Hypervisor, xml: str) -> str:
    """Defines a domain and returns its UUID."""
    with translated("a new domain"):
        return str(hypervisor.connection().defineXML(xml).UUIDString())


def undefine(domain: Any) -> None:
    with translated(f"server {domain.UUIDString()}"):
        domain.undefine()


def agent_command(domain: Any, command: str, arguments: dict[str, Any] | None, timeout: int) -> Any:
    """Sends one command to the guest agent and returns its answer; waits at most ``timeout`` seconds.

    The answer comes from the guest: its length is limited here, and nobody may use it as a path or a name. libvirt sends a
    guest-sync before each command. A command that timed out may still be carried out later (F3). Raises AgentFailed, and
    HookFailed when a freeze hook of the agent ended with an error.
    """
    document: dict[str, Any] = {"execute": command}
    if arguments:
        document["arguments"] = arguments
    try:
        answer = libvirt_qemu.qemuAgentCommand(domain, json.dumps(document), timeout, 0)
    except libvirt.libvirtError as error:
        if _is_away(error):
            raise HypervisorUnavailable(f"libvirt went away during {command}: {_words(error)}") from error
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            raise NotFound("the server does not exist in libvirt") from error
        hook = HOOK.search(str(error))
        if hook is not None:
            raise HookFailed(f"a hook in the guest failed during {command}: {hook[0]}") from error
        raise AgentFailed(f"the guest agent failed {command}: {_words(error)}") from error
    except UnicodeDecodeError as error:
        raise AgentFailed(f"the guest agent's answer to {command} cannot be read") from error
    if answer is None or len(answer) > AGENT_ANSWER_LIMIT:
        raise AgentFailed(f"the guest agent's answer to {command} is empty or too long")
    try:
        return json.loads(answer)["return"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AgentFailed(f"the guest agent's answer to {command} cannot be read") from error


def guest_filesystems(domain: Any, seconds: int) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Returns (mount point, guest device, type, libvirt disk targets) of every mounted filesystem that the agent names.

    libvirt maps the guest's PCI addresses to disk targets. The call itself has no time limit, so the domain's agent timeout is
    set around it (libvirt >= 5.10) and reset to libvirt's default afterwards. Raises AgentFailed.
    """
    with translated(f"server {domain.UUIDString()}"):
        domain.agentSetResponseTimeout(seconds, 0)
        try:
            found = domain.fsInfo()
        except libvirt.libvirtError as error:
            if error.get_error_domain() == libvirt.VIR_FROM_QEMU:
                raise AgentFailed(f"the guest agent cannot list filesystems: {_words(error)}") from error
            raise
        except UnicodeDecodeError as error:
            raise AgentFailed("the guest agent names filesystems in characters that cannot be read") from error
        finally:
            with suppress(libvirt.libvirtError):
                domain.agentSetResponseTimeout(libvirt.VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK, 0)
    return [(entry[0], entry[1], entry[2], tuple(entry[3] or ())) for entry in found]

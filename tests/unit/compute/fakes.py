"""Domains and their agent, guards and storage, as compute sees them."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stillframe.compute.clients.block_storage import StorageClient
from stillframe.compute.quiesce import record as freeze_record
from stillframe.compute.quiesce.record import FreezeRecord
from stillframe.compute.worker.context import WorkerContext
from stillframe.config import Settings
from stillframe.db.engine import Database
from stillframe.errors import AgentFailed, NotFound
from stillframe.host import domain_jobs, hypervisor
from stillframe.host.hypervisor import DomainView
from tests.unit.builders import SERVER, settings

ALL = (
    "guest-ping",
    "guest-info",
    "guest-get-fsinfo",
    "guest-exec",
    "guest-exec-status",
    "guest-fsfreeze-status",
    "guest-fsfreeze-freeze",
    "guest-fsfreeze-freeze-list",
    "guest-fsfreeze-thaw",
    "guest-file-open",
    "guest-file-read",
    "guest-file-write",
    "guest-file-close",
)
ALLOWED_WHILE_FROZEN = ("guest-ping", "guest-info", "guest-fsfreeze-status", "guest-fsfreeze-thaw")
HANDLE = 1000
Filesystem = tuple[str, str, str, tuple[str, ...]]


def disk_xml(target: str, file: str, serial: str = "", format_: str = "qcow2") -> str:
    named = f"<serial>{serial}</serial>" if serial else ""
    return (
        f'<disk type="file" device="disk"><driver name="qemu" type="{format_}"/><source file="{file}"/>'
        f'<target dev="{target}" bus="virtio"/>{named}</disk>'
    )


def domain_xml(*disks: str, metadata: str = "", channel: bool = True) -> str:
    agent = '<channel type="unix"><target type="virtio" name="org.qemu.guest_agent.0"/></channel>' if channel else ""
    return (
        f"<domain><name>n</name><metadata>{metadata}</metadata><memory unit='KiB'>524288</memory><vcpu>2</vcpu>"
        f"<devices>{''.join(disks)}{agent}</devices></domain>"
    )


def view(xml: str, inactive: str | None = None, state: int | None = None, active: bool = True) -> DomainView:
    return DomainView(SERVER, "guest", state if state is not None else 1 if active else 5, 0, active, xml, inactive)


def saved_view(xml: str, saved: str | None) -> DomainView:
    """A domain with a managed save image that holds the description ``saved``."""
    return DomainView(SERVER, "guest", 5, 5, False, xml, xml, True, saved)


@dataclass
class Agent:
    """The guest agent: what it can do, what is mounted, and the failures a test asks for, by command.

    ``knob`` is what its one file holds; None: there is no such file. What is written reaches it when the file is closed.
    """

    commands: tuple[str, ...] = ALL
    filesystems: Sequence[Filesystem] | Exception = (("/", "vda1", "ext4", ("vda",)),)
    failures: dict[str, Exception] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    frozen: int = 0
    knob: str | None = "0"
    written: str | None = None
    said: list[str] = field(default_factory=list)
    asked: dict[str, Any] = field(default_factory=dict)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "Agent":
        monkeypatch.setattr(hypervisor, "agent_command", self.command)
        monkeypatch.setattr(hypervisor, "guest_filesystems", self.list_filesystems)
        return self

    def list_filesystems(self, _domain: Any, seconds: int) -> list[Filesystem]:
        assert seconds > 0
        if isinstance(self.filesystems, Exception):
            raise self.filesystems
        return list(self.filesystems)

    def command(self, _domain: Any, command: str, arguments: Any, _timeout: int) -> Any:
        self.said.append(command)
        self.asked[command] = arguments
        if command in self.failures:
            raise self.failures[command]
        if command in self.answers:
            answer = self.answers[command]
            return answer() if callable(answer) else answer
        return self._behave(command, arguments)

    def _behave(self, command: str, arguments: Any) -> Any:
        mounted = [] if isinstance(self.filesystems, Exception) else self.filesystems
        match command:
            case "guest-info":
                # A frozen guest's agent allows what the thaw needs and no more.
                return {
                    "supported_commands": [
                        {"name": name, "enabled": not self.frozen or name in ALLOWED_WHILE_FROZEN} for name in self.commands
                    ]
                }
            case "guest-fsfreeze-status":
                return "frozen" if self.frozen else "thawed"
            case "guest-fsfreeze-freeze":
                self.frozen = len(mounted)
                return self.frozen
            case "guest-fsfreeze-freeze-list":
                self.frozen = len(arguments["mountpoints"])
                return self.frozen
            case "guest-fsfreeze-thaw":
                thawed, self.frozen = self.frozen, 0
                return thawed
            case "guest-exec":
                return {"pid": 7}
            case "guest-exec-status":
                return {"exited": True, "exitcode": 0}
        return self._file(command, arguments) if command.startswith("guest-file") else {}

    def _file(self, command: str, arguments: Any) -> Any:
        if self.frozen or self.knob is None:
            raise AgentFailed("frozen" if self.frozen else "No such file or directory")
        match command:
            case "guest-file-open":
                return HANDLE
            case "guest-file-read":
                return {"count": 2, "buf-b64": base64.b64encode(f"{self.knob}\n".encode()).decode(), "eof": True}
            case "guest-file-write":
                self.written = base64.b64decode(arguments["buf-b64"]).decode().strip()
            case "guest-file-close":
                self.knob, self.written = self.written or self.knob, None
        return {}


@dataclass
class Guard:
    """The watchdog's door: which records are held."""

    agent: Agent
    held: list[FreezeRecord] = field(default_factory=list)

    def arm(self, domain: str, operation: str, seconds: float, rcu_expedited: str | None) -> FreezeRecord:
        self.agent.said.append("arm")
        record = FreezeRecord(domain, operation, freeze_record.boot_seconds() + seconds, 1, rcu_expedited)
        self.held.append(record)
        return record

    def renew(self, record: FreezeRecord, seconds: float) -> FreezeRecord:
        self.agent.said.append("renew")
        later = replace(record, deadline=freeze_record.boot_seconds() + seconds)
        self.held[self.held.index(record)] = later
        return later

    def wait_for(self, record: FreezeRecord, seconds: float) -> None:
        assert record in self.held
        self.agent.said.append(f"wait {seconds:g}")

    def disarm(self, record: FreezeRecord) -> None:
        self.agent.said.append("disarm")
        self.held.remove(record)

    def pending(self, domain: str) -> FreezeRecord | None:
        return next((record for record in self.held if record.domain == domain), None)

    def resume(self, domain: str) -> None:
        if self.pending(domain):
            self.agent.said.append("let go on")

    def try_thaw(self, record: FreezeRecord) -> bool:
        self.agent.said.append("try thaw")
        try:
            hypervisor.agent_command(None, "guest-fsfreeze-thaw", None, 1)
        except AgentFailed:
            return False
        return self.agent.frozen == 0


class Domain:
    def UUIDString(self) -> str:
        return SERVER


class Storage:
    """Block storage's door: attachments by server and volumes by id."""

    def __init__(self, attachments: list[dict[str, Any]] | None = None, volumes: Mapping[str, Any] | None = None) -> None:
        self.attachments = attachments or []
        self.reports: list[tuple[str, bool]] = []
        self.deleting: set[str] = set()
        self.volumes = dict(volumes or {})

    def attachments_of(self, _server_id: str, _project_id: str) -> list[dict[str, Any]]:
        return [{"id": "a", **each} for each in self.attachments]

    def attachment(self, volume_id: str, server_id: str) -> dict[str, Any] | None:
        return next((each for each in self.attachments if each["volume_id"] == volume_id), None)

    def report_guest_disk(self, attachment_id: str, present: bool) -> None:
        self.reports.append((attachment_id, present))

    def being_deleted(self) -> set[str]:
        return self.deleting

    def snapshot(self, snapshot_id: str) -> dict[str, Any] | None:
        return {"id": snapshot_id, "status": "available"}

    def snapshot_of(self, project_id: str, snapshot_id: str) -> dict[str, Any] | None:
        client: Any = self
        return StorageClient.snapshot_of(client, project_id, snapshot_id)

    def volume(self, volume_id: str) -> dict[str, Any]:
        if volume_id not in self.volumes:
            raise NotFound(f"no volume {volume_id}")
        return dict(self.volumes[volume_id])

    def volumes_of(self, project_id: str, volume_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        known = {each: self.volumes[each] for each in volume_ids if each in self.volumes}
        return {each: row for each, row in known.items() if row["os-vol-tenant-attr:tenant_id"] == project_id}


def worker(
    database: Database,
    state_dir: Path,
    views: list[DomainView],
    monkeypatch: pytest.MonkeyPatch,
    storage: Storage | None = None,
) -> WorkerContext:
    """A compute world whose libvirt shows ``views``."""

    def find(_hypervisor: Any, uuid: str) -> DomainView:
        for each in views:
            if each.uuid == uuid:
                return each
        raise NotFound(f"no server {uuid}")

    monkeypatch.setattr(hypervisor, "list_domains", lambda _hypervisor: views)
    monkeypatch.setattr(hypervisor, "find", find)
    monkeypatch.setattr(hypervisor, "stand_in", lambda _hypervisor, _uuid: None)
    monkeypatch.setattr(domain_jobs, "find", lambda _domain, _targets: None)
    daemon = SimpleNamespace(listAllSecrets=lambda: [])
    connection: Any = SimpleNamespace(domain=lambda _uuid: Domain(), uri="test:///default", connection=lambda: daemon)
    configured: Settings = settings(state_dir).of("compute")
    guard: Any = Guard(Agent())
    return WorkerContext(database, connection, cast("Any", storage or Storage()), guard, configured)

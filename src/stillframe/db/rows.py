"""What a row of each table is to Python, so that a misspelt column, or a None that nobody looked at, is a type error.

A test holds that each class has the columns of its table, with their types. What the columns mean is told in ``tables``.
"""

from datetime import datetime
from typing import Any, TypedDict


class LinkedFile(TypedDict):
    """The file of another volume that a linked clone reads."""

    volume_id: str
    file: str
    format: str


class VolumeTypeRow(TypedDict):
    """A volume type."""

    id: str
    name: str
    description: str | None
    extra_specs: dict[str, str]
    created_at: datetime
    updated_at: datetime | None
    is_public: bool
    qos_specs_id: str | None


class VolumeTypeAccessRow(TypedDict):
    """A project that may use a type which is not public."""

    volume_type_id: str
    project_id: str


class QosSpecsRow(TypedDict):
    """Limits that volume types may have. ``consumer`` is who keeps them: "front-end", "back-end" or "both"."""

    id: str
    name: str
    consumer: str
    specs: dict[str, str]
    created_at: datetime
    updated_at: datetime | None


class VolumeTransferRow(TypedDict):
    """A volume that its project offers to whoever has the key."""

    seq: int
    id: str
    project_id: str
    name: str | None
    volume_id: str
    salt: str
    key_digest: str
    no_snapshots: bool
    created_at: datetime
    updated_at: datetime | None


class MessageRow(TypedDict):
    """Why something that was accepted could not be done, for its project."""

    seq: int
    id: str
    project_id: str
    request_id: str
    resource_type: str
    resource_uuid: str
    event_id: str
    text: str
    expires_at: datetime
    created_at: datetime
    updated_at: datetime | None


class QuotaClassRow(TypedDict):
    """One limit of a quota class."""

    class_name: str
    resource: str
    hard_limit: int


class ServiceStateRow(TypedDict):
    """What an administrator set of a service, by the names it is shown under."""

    binary: str
    host: str
    disabled: bool
    disabled_reason: str | None
    frozen: bool


class VolumeRow(TypedDict):
    """A volume. ``size`` is in GiB."""

    seq: int
    id: str
    project_id: str
    user_id: str
    name: str | None
    description: str | None
    size: int
    status: str
    volume_type_id: str
    availability_zone: str
    metadata: dict[str, str]
    active_file: str
    format: str
    fault: str | None
    created_at: datetime
    updated_at: datetime | None
    backend: str
    share: str
    base_format: str
    snapshot_id: str | None
    source_volid: str | None
    bootable: bool
    image_metadata: dict[str, Any] | None
    linked_to: LinkedFile | None
    undo_file: str | None
    needs_cleanup: bool
    base_file: str | None
    readonly: bool | None
    group_id: str | None
    parent_images: list[str] | None


class AdoptedDiskRow(TypedDict):
    """A disk of a server that was made a volume where it is."""

    server_id: str
    target: str
    file: str
    volume_id: str
    created_at: datetime
    updated_at: datetime | None
    ends_chain: bool


class SnapshotRow(TypedDict):
    """A snapshot. ``size`` is that of the volume at that moment, in GiB."""

    seq: int
    id: str
    project_id: str
    user_id: str
    name: str | None
    description: str | None
    volume_id: str
    size: int
    status: str
    progress: str
    metadata: dict[str, str]
    overlay: str | None
    backing: str
    backing_format: str
    consistency: dict[str, Any] | None
    server_id: str | None
    fault: str | None
    created_at: datetime
    updated_at: datetime | None
    group_snapshot_id: str | None


class AttachmentRow(TypedDict):
    """Which server holds a volume."""

    seq: int
    id: str
    project_id: str
    volume_id: str
    instance_id: str | None
    status: str
    mode: str
    connector: dict[str, Any] | None
    attached_at: datetime | None
    created_at: datetime
    updated_at: datetime | None
    missing_since: datetime | None


class QuotaRow(TypedDict):
    """One limit of a project."""

    project_id: str
    resource: str
    hard_limit: int


class ServiceRow(TypedDict):
    """A worker. ``seen_at`` is in seconds since the epoch."""

    binary: str
    host: str
    seen_at: float
    disabled_reason: str | None
    created_at: datetime
    updated_at: datetime | None


class ServiceSeen(ServiceRow):
    """A worker, and how long ago it was seen."""

    silent_seconds: float


class WriteTurnRow(TypedDict):
    """The one row that writers lock."""

    only_one: int


class DeploymentRow(TypedDict):
    """The one row that names this deployment."""

    only: int
    id: str


class ShareRow(TypedDict):
    """The id that the marker file on a share must carry."""

    path: str
    share_id: str


class BackupRow(TypedDict):
    """A backup. ``size`` is the volume's, in GiB; ``bytes`` is what is stored."""

    seq: int
    id: str
    project_id: str
    user_id: str
    name: str | None
    description: str | None
    volume_id: str
    snapshot_id: str | None
    parent_id: str | None
    status: str
    size: int
    object_count: int
    bytes: int
    container: str
    metadata: dict[str, str]
    availability_zone: str
    data_timestamp: datetime
    stored_id: str
    held_file: str | None
    fault: str | None
    created_at: datetime
    updated_at: datetime | None
    content_bytes: int | None


class AssistedSnapshotRow(TypedDict):
    """A set. ``progress`` is in percent."""

    seq: int
    id: str
    project_id: str
    user_id: str
    name: str | None
    description: str | None
    server_id: str
    metadata: dict[str, str]
    status: str
    progress: int
    quiesce: str
    consistency: dict[str, Any] | None
    volumes: list[dict[str, Any]]
    excluded_disks: list[dict[str, Any]]
    fault: str | None
    created_at: datetime
    updated_at: datetime | None
    policy_id: str | None
    warnings: list[str] | None
    retired_at: datetime | None
    switched_at: datetime | None
    switched_at_uncertainty_ms: float | None
    switched_at_note: str | None


class ServerSettingsRow(TypedDict):
    """What the sets of one server keep to. None: as the deployment has it. ``hook_timeout`` is in seconds."""

    server_id: str
    project_id: str
    quiesce: str | None
    allow_unfreezable: list[str] | None
    hook_timeout: int | None
    created_at: datetime
    updated_at: datetime | None


class SnapshotPolicyRow(TypedDict):
    """A policy. ``volumes`` is "all" or a list of ids."""

    seq: int
    id: str
    project_id: str
    user_id: str
    name: str | None
    description: str | None
    server_id: str
    schedule: str | None
    timezone: str
    quiesce: str
    volumes: str | list[str]
    keep_last: int
    keep_hourly: int
    keep_daily: int
    keep_weekly: int
    enabled: bool
    next_run: datetime | None
    due_at: datetime | None
    trying_since: datetime | None
    last_run: datetime | None
    last_set_id: str | None
    last_error: str | None
    retention_error: str | None
    retention_note: str | None
    created_at: datetime
    updated_at: datetime | None


class OperationRow(TypedDict):
    """An operation of the journal. ``lease_until`` is in seconds since the epoch."""

    seq: int
    id: str
    service: str
    kind: str
    state: str
    intent: dict[str, Any]
    plan: list[dict[str, Any]]
    step: int
    evidence: dict[str, Any]
    owner: str | None
    epoch: int
    lease_until: float
    attempts: int
    fault: dict[str, Any] | None
    bytes: int
    request_id: str
    created_at: datetime
    updated_at: datetime | None
    project_id: str
    cancel_asked: int
    unneeded_since: datetime | None
    version: int


class OperationTotalRow(TypedDict):
    """How many operations of one kind have ended one way, and how many bytes they copied."""

    service: str
    kind: str
    state: str
    amount: int
    bytes: int


class OperationFigures(OperationTotalRow):
    """Operations of one kind in one state. ``oldest``: when the oldest of them was asked for; None where they have ended."""

    oldest: datetime | None


class KnownVolumeRow(TypedDict):
    """A volume that an operation was ever about."""

    id: str


class OperationResourceRow(TypedDict):
    """What an operation holds."""

    operation_id: str
    resource: str
    unfinished: int
    shared: int


class HeldAlone(TypedDict):
    """An unfinished operation that does not only read what it holds, once for each resource that was asked about."""

    id: str
    plan: list[dict[str, Any]]
    resource: str

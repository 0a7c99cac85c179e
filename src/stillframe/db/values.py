"""What an insert must give for each table, and which columns may change: mypy sees one that is misspelt, missing or of another
type. Columns that an insert leaves out become null, or have the default of ``tables``.
"""

from datetime import datetime
from typing import Any, NotRequired, TypedDict

from stillframe.db.rows import LinkedFile


class NewVolumeType(TypedDict):
    """A volume type that is to be inserted."""

    id: str
    name: str
    description: NotRequired[str | None]
    extra_specs: dict[str, str]
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime | None]
    is_public: bool
    qos_specs_id: NotRequired[str | None]


class VolumeTypeChanges(TypedDict, total=False):
    """Columns of a volume type that may change, and what they become."""

    name: str
    description: str | None
    extra_specs: dict[str, str]
    is_public: bool
    qos_specs_id: str | None


class NewQosSpecs(TypedDict):
    """Qos-specs that are to be inserted."""

    id: str
    name: str
    consumer: str
    specs: dict[str, str]
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime | None]


class QosSpecsChanges(TypedDict, total=False):
    """Columns of qos-specs that may change, and what they become."""

    consumer: str
    specs: dict[str, str]


class NewVolumeTransfer(TypedDict):
    """A transfer that is to be inserted."""

    id: str
    project_id: str
    name: NotRequired[str | None]
    volume_id: str
    salt: str
    key_digest: str
    no_snapshots: bool
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime | None]


class NewMessage(TypedDict):
    """A message that is to be inserted."""

    id: str
    project_id: str
    request_id: str
    resource_type: str
    resource_uuid: str
    event_id: str
    text: str
    expires_at: datetime
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime | None]


class VolumeOfAnyType(TypedDict):
    """A volume that is to be inserted and has no type yet."""

    id: str
    project_id: str
    user_id: str
    name: NotRequired[str | None]
    description: NotRequired[str | None]
    size: int
    status: str
    availability_zone: str
    metadata: dict[str, str]
    active_file: str
    format: str
    fault: NotRequired[str | None]
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime | None]
    backend: str
    share: str
    base_format: str
    snapshot_id: NotRequired[str | None]
    source_volid: NotRequired[str | None]
    bootable: NotRequired[bool]
    image_metadata: NotRequired[dict[str, Any] | None]
    linked_to: NotRequired[LinkedFile | None]
    undo_file: NotRequired[str | None]
    needs_cleanup: NotRequired[bool]
    base_file: NotRequired[str | None]
    parent_images: NotRequired[list[str] | None]
    readonly: NotRequired[bool | None]
    group_id: NotRequired[str | None]


class NewVolume(VolumeOfAnyType):
    """A volume that is to be inserted."""

    volume_type_id: str


class NewAdoptedDisk(TypedDict):
    """A disk of a server that is to be recorded."""

    server_id: str
    target: str
    file: str
    volume_id: str
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime | None]
    ends_chain: bool


class VolumeChanges(TypedDict, total=False):
    """Columns of a volume that may change, and what they become."""

    base_file: str | None
    parent_images: list[str] | None
    project_id: str
    user_id: str
    volume_type_id: str
    readonly: bool | None
    group_id: str | None
    name: str | None
    description: str | None
    size: int
    status: str
    metadata: dict[str, str]
    active_file: str
    format: str
    fault: str | None
    updated_at: datetime | None
    base_format: str
    snapshot_id: str | None
    source_volid: str | None
    bootable: bool
    image_metadata: dict[str, Any] | None
    linked_to: LinkedFile | None
    undo_file: str | None
    needs_cleanup: bool


class NewSnapshot(TypedDict):
    """A snapshot that is to be inserted."""

    id: str
    project_id: str
    user_id: str
    name: NotRequired[str | None]
    description: NotRequired[str | None]
    volume_id: str
    size: int
    status: str
    progress: str
    metadata: dict[str, str]
    overlay: NotRequired[str | None]
    backing: str
    backing_format: str
    consistency: NotRequired[dict[str, Any] | None]
    server_id: NotRequired[str | None]
    fault: NotRequired[str | None]
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime | None]
    group_snapshot_id: NotRequired[str | None]


class SnapshotChanges(TypedDict, total=False):
    """Columns of a snapshot that may change, and what they become."""

    project_id: str
    user_id: str
    name: str | None
    description: str | None
    status: str
    progress: str
    metadata: dict[str, str]
    overlay: str | None
    backing: str
    backing_format: str
    consistency: dict[str, Any] | None
    fault: str | None
    created_at: datetime


class NewAttachment(TypedDict):
    """An attachment that is to be inserted."""

    id: str
    project_id: str
    volume_id: str
    instance_id: NotRequired[str | None]
    status: str
    mode: str
    connector: NotRequired[dict[str, Any] | None]
    attached_at: NotRequired[datetime | None]
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime | None]
    missing_since: NotRequired[datetime | None]


class AttachmentChanges(TypedDict, total=False):
    """Columns of an attachment that may change, and what they become."""

    instance_id: str | None
    status: str
    mode: str
    connector: dict[str, Any] | None
    attached_at: datetime | None
    missing_since: datetime | None


class NewBackup(TypedDict):
    """A backup that is to be inserted."""

    id: str
    project_id: str
    user_id: str
    name: NotRequired[str | None]
    description: NotRequired[str | None]
    volume_id: str
    snapshot_id: NotRequired[str | None]
    parent_id: NotRequired[str | None]
    status: str
    size: int
    object_count: int
    bytes: int
    container: str
    metadata: dict[str, str]
    availability_zone: str
    data_timestamp: datetime
    stored_id: str
    held_file: NotRequired[str | None]
    fault: NotRequired[str | None]
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime | None]
    content_bytes: NotRequired[int | None]


class BackupChanges(TypedDict, total=False):
    """Columns of a backup that may change, and what they become."""

    name: str | None
    description: str | None
    status: str
    parent_id: str | None
    object_count: int
    bytes: int
    metadata: dict[str, str]
    held_file: str | None
    fault: str | None


class AssistedSnapshotPlan(TypedDict):
    """What is planned for a set, when it is stored or when its turn comes."""

    quiesce: str
    volumes: list[dict[str, Any]]
    excluded_disks: list[dict[str, Any]]
    warnings: list[str] | None
    fault: str | None


class NewAssistedSnapshot(TypedDict):
    """An assisted snapshot that is to be inserted."""

    id: str
    project_id: str
    user_id: str
    name: NotRequired[str | None]
    description: NotRequired[str | None]
    server_id: str
    metadata: dict[str, str]
    status: str
    progress: int
    quiesce: str
    volumes: list[dict[str, Any]]
    excluded_disks: list[dict[str, Any]]
    warnings: NotRequired[list[str] | None]
    fault: NotRequired[str | None]
    consistency: NotRequired[dict[str, Any] | None]
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime | None]
    policy_id: NotRequired[str | None]
    retired_at: NotRequired[datetime | None]
    switched_at: NotRequired[datetime | None]
    switched_at_uncertainty_ms: NotRequired[float | None]
    switched_at_note: NotRequired[str | None]


class AssistedSnapshotChanges(TypedDict, total=False):
    """Columns of an assisted snapshot that may change, and what they become."""

    name: str | None
    description: str | None
    metadata: dict[str, str]
    status: str
    progress: int
    quiesce: str
    consistency: dict[str, Any] | None
    volumes: list[dict[str, Any]]
    excluded_disks: list[dict[str, Any]]
    fault: str | None
    warnings: list[str] | None
    policy_id: str | None
    retired_at: datetime | None
    switched_at: datetime | None
    switched_at_uncertainty_ms: float | None
    switched_at_note: str | None


class PolicyTerms(TypedDict):
    """What a person decides about a snapshot policy."""

    name: str | None
    description: str | None
    schedule: str | None
    timezone: str
    quiesce: str
    volumes: str | list[str]
    keep_last: int
    keep_hourly: int
    keep_daily: int
    keep_weekly: int
    enabled: bool


class NewSnapshotPolicy(PolicyTerms):
    """A snapshot policy that is to be inserted."""

    id: str
    project_id: str
    user_id: str
    server_id: str
    next_run: NotRequired[datetime | None]
    due_at: NotRequired[datetime | None]
    trying_since: NotRequired[datetime | None]
    last_run: NotRequired[datetime | None]
    last_set_id: NotRequired[str | None]
    last_error: NotRequired[str | None]
    retention_error: NotRequired[str | None]
    retention_note: NotRequired[str | None]
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime | None]


class PolicyTermChanges(TypedDict, total=False):
    """What a person changes of a snapshot policy."""

    name: str | None
    description: str | None
    schedule: str | None
    timezone: str
    quiesce: str
    volumes: str | list[str]
    keep_last: int
    keep_hourly: int
    keep_daily: int
    keep_weekly: int
    enabled: bool


class SnapshotPolicyChanges(PolicyTermChanges, total=False):
    """Columns of a snapshot policy that may change, and what they become."""

    next_run: datetime | None
    due_at: datetime | None
    trying_since: datetime | None
    last_run: datetime | None
    last_set_id: str | None
    last_error: str | None
    retention_error: str | None
    retention_note: str | None


class NewOperation(TypedDict):
    """An operation that is to be inserted."""

    id: str
    service: str
    kind: str
    state: str
    intent: dict[str, Any]
    plan: list[dict[str, Any]]
    step: int
    evidence: dict[str, Any]
    owner: NotRequired[str | None]
    epoch: int
    lease_until: float
    attempts: int
    fault: NotRequired[dict[str, Any] | None]
    bytes: int
    request_id: str
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime | None]
    project_id: NotRequired[str]
    cancel_asked: NotRequired[int]
    unneeded_since: NotRequired[datetime | None]
    version: NotRequired[int]


class OperationChanges(TypedDict, total=False):
    """Columns of an operation that may change, and what they become."""

    state: str
    step: int
    evidence: dict[str, Any]
    owner: str | None
    epoch: int
    lease_until: float
    attempts: int
    fault: dict[str, Any] | None
    bytes: int
    cancel_asked: int


class ServerSettingsChanges(TypedDict, total=False):
    """What the sets of one server are to keep to; None: as the deployment has it."""

    quiesce: str | None
    allow_unfreezable: list[str] | None
    hook_timeout: int | None

"""The rows of volume groups, as ``rows`` has others, and what an insert gives or a change sets, as ``values`` has it."""

from datetime import datetime
from typing import NotRequired, TypedDict


class GroupTypeRow(TypedDict):
    """A group type."""

    id: str
    name: str
    description: str | None
    group_specs: dict[str, str]
    is_public: bool
    created_at: datetime
    updated_at: datetime | None


class VolumeGroupRow(TypedDict):
    """A group of volumes, which name it in their ``group_id``."""

    seq: int
    id: str
    project_id: str
    user_id: str
    name: str | None
    description: str | None
    status: str
    group_type_id: str
    availability_zone: str
    group_snapshot_id: str | None
    source_group_id: str | None
    created_at: datetime
    updated_at: datetime | None


class GroupVolumeTypeRow(TypedDict):
    """A volume type of which a group's volumes may be."""

    group_id: str
    volume_type_id: str


class GroupSnapshotRow(TypedDict):
    """A snapshot of a group; those of its volumes name it in their ``group_snapshot_id``."""

    seq: int
    id: str
    project_id: str
    user_id: str
    name: str | None
    description: str | None
    status: str
    group_id: str
    group_type_id: str
    created_at: datetime
    updated_at: datetime | None


class NewGroupType(TypedDict):
    """A group type that is to be inserted."""

    id: str
    name: str
    description: NotRequired[str | None]
    group_specs: dict[str, str]
    is_public: bool
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime | None]


class GroupTypeChanges(TypedDict, total=False):
    """Columns of a group type that may change, and what they become."""

    name: str
    description: str | None
    group_specs: dict[str, str]
    is_public: bool


class NewVolumeGroup(TypedDict):
    """A group that is to be inserted."""

    id: str
    project_id: str
    user_id: str
    name: NotRequired[str | None]
    description: NotRequired[str | None]
    status: str
    group_type_id: str
    availability_zone: str
    group_snapshot_id: NotRequired[str | None]
    source_group_id: NotRequired[str | None]
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime | None]


class VolumeGroupChanges(TypedDict, total=False):
    """Columns of a group that may change, and what they become."""

    name: str | None
    description: str | None
    status: str


class NewGroupSnapshot(TypedDict):
    """A group snapshot that is to be inserted."""

    id: str
    project_id: str
    user_id: str
    name: NotRequired[str | None]
    description: NotRequired[str | None]
    status: str
    group_id: str
    group_type_id: str
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime | None]


class GroupSnapshotChanges(TypedDict, total=False):
    """Columns of a group snapshot that may change, and what they become."""

    status: str

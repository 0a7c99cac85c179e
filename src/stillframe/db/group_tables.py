"""The tables of volume groups: types, groups, and their snapshots."""

from sqlalchemy import JSON, Boolean, Column, Index, String, Table, Text

from stillframe.db.schema import SEQUENCE, metadata, owned, times

group_types = Table(
    "group_types",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("description", Text),
    Column("group_specs", JSON, nullable=False),
    Column("is_public", Boolean, nullable=False),
    *times(),
)

volume_groups = Table(  # "groups" is a reserved word of MySQL 8
    "volume_groups",
    metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    *owned(),
    Column("status", String(32), nullable=False),
    Column("group_type_id", String(36), nullable=False),
    Column("availability_zone", String(255), nullable=False),
    Column("group_snapshot_id", String(36)),  # what it was made from
    Column("source_group_id", String(36)),
    *times(),
    Index("ix_groups_project", "project_id", "seq"),
    Index("ix_groups_type", "group_type_id"),
)

group_volume_types = Table(
    "group_volume_types",
    metadata,
    Column("group_id", String(36), primary_key=True),
    Column("volume_type_id", String(36), primary_key=True),  # of which its volumes may be
    Index("ix_group_volume_types_type", "volume_type_id"),
)

group_snapshots = Table(
    "group_snapshots",
    metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    *owned(),
    Column("status", String(32), nullable=False),
    Column("group_id", String(36), nullable=False),
    Column("group_type_id", String(36), nullable=False),
    *times(),
    Index("ix_group_snapshots_project", "project_id", "seq"),
    Index("ix_group_snapshots_group", "group_id"),
)

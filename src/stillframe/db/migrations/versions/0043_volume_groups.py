"""Volume groups, their types and their snapshots"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0043"
down_revision = "0033"
branch_labels = None
depends_on = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Makes the new tables, then lets volumes and snapshots name the group, or the group snapshot, that they belong to."""
    op.create_table(
        "group_types",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("group_specs", sa.JSON(), nullable=False),
        sa.Column("is_public", sa.Boolean(), nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("id", name="pk_group_types"),
        sa.UniqueConstraint("name", name="uq_group_types_name"),
    )
    _groups()
    _group_snapshots()
    op.add_column("volumes", sa.Column("group_id", sa.String(36)))
    op.create_index("ix_volumes_group", "volumes", ["group_id"])
    op.add_column("snapshots", sa.Column("group_snapshot_id", sa.String(36)))
    op.create_index("ix_snapshots_group_snapshot", "snapshots", ["group_snapshot_id"])


def _groups() -> None:
    op.create_table(
        "volume_groups",
        *_owned(),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("group_type_id", sa.String(36), nullable=False),
        sa.Column("availability_zone", sa.String(255), nullable=False),
        sa.Column("group_snapshot_id", sa.String(36)),
        sa.Column("source_group_id", sa.String(36)),
        *_times(),
        sa.PrimaryKeyConstraint("seq", name="pk_volume_groups"),
        sa.UniqueConstraint("id", name="uq_volume_groups_id"),
    )
    op.create_index("ix_groups_project", "volume_groups", ["project_id", "seq"])
    op.create_index("ix_groups_type", "volume_groups", ["group_type_id"])
    op.create_table(
        "group_volume_types",
        sa.Column("group_id", sa.String(36), nullable=False),
        sa.Column("volume_type_id", sa.String(36), nullable=False),
        sa.PrimaryKeyConstraint("group_id", "volume_type_id", name="pk_group_volume_types"),
    )
    op.create_index("ix_group_volume_types_type", "group_volume_types", ["volume_type_id"])


def _group_snapshots() -> None:
    op.create_table(
        "group_snapshots",
        *_owned(),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("group_id", sa.String(36), nullable=False),
        sa.Column("group_type_id", sa.String(36), nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("seq", name="pk_group_snapshots"),
        sa.UniqueConstraint("id", name="uq_group_snapshots_id"),
    )
    op.create_index("ix_group_snapshots_project", "group_snapshots", ["project_id", "seq"])
    op.create_index("ix_group_snapshots_group", "group_snapshots", ["group_id"])


def _owned() -> list[sa.Column[Any]]:
    return [
        sa.Column("seq", _SEQUENCE, nullable=False, autoincrement=True),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("project_id", sa.String(255), nullable=False),
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255)),
        sa.Column("description", sa.Text()),
    ]


def _times() -> list[sa.Column[Any]]:
    return [sa.Column("created_at", sa.DateTime(), nullable=False), sa.Column("updated_at", sa.DateTime())]

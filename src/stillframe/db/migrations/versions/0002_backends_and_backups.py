"""Backends, trees of files, backups"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _add(table: str, name: str, kind: sa.types.TypeEngine[Any], default: str) -> None:
    """Adds a column that may not be null: rows that are there get ``default``, later ones must say."""
    with op.batch_alter_table(table) as batch:
        batch.add_column(sa.Column(name, kind, nullable=False, server_default=sa.text(default)))
    with op.batch_alter_table(table) as batch:
        batch.alter_column(name, existing_type=kind, existing_nullable=False, server_default=None)


def upgrade() -> None:
    _add("volume_types", "is_public", sa.Boolean(), "1" if op.get_bind().dialect.name == "sqlite" else "true")
    _add("volumes", "backend", sa.String(length=64), "'local'")
    _add("volumes", "share", sa.String(length=1024).with_variant(sa.String(length=768), "mysql"), "''")
    op.execute("UPDATE volumes SET share = COALESCE((SELECT MIN(path) FROM shares), '')")
    _add("volumes", "base_format", sa.String(length=16), "'qcow2'")
    with op.batch_alter_table("volumes") as batch:
        batch.add_column(sa.Column("snapshot_id", sa.String(length=36), nullable=True))
        batch.add_column(sa.Column("source_volid", sa.String(length=36), nullable=True))
    _add("volumes", "bootable", sa.Boolean(), "0" if op.get_bind().dialect.name == "sqlite" else "false")
    with op.batch_alter_table("volumes") as batch:
        batch.add_column(sa.Column("image_metadata", sa.JSON(none_as_null=True), nullable=True))
        batch.add_column(sa.Column("linked_to", sa.JSON(none_as_null=True), nullable=True))
        batch.add_column(sa.Column("undo_file", sa.String(length=255), nullable=True))
    _add("volumes", "untidy", sa.Boolean(), "0" if op.get_bind().dialect.name == "sqlite" else "false")
    with op.batch_alter_table("volumes") as batch:
        batch.create_index("ix_volumes_share", ["share"], unique=False)
    with op.batch_alter_table("snapshots") as batch:
        batch.alter_column("overlay", existing_type=sa.String(length=255), nullable=True)
    _add("operation_resources", "shared", sa.Integer(), "0")
    op.create_table(
        "backups",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("volume_id", sa.String(length=36), nullable=False),
        sa.Column("snapshot_id", sa.String(length=36), nullable=True),
        sa.Column("parent_id", sa.String(length=36), nullable=True),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("object_count", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("container", sa.String(length=1024), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("availability_zone", sa.String(length=255), nullable=False),
        sa.Column("data_timestamp", sa.DateTime(), nullable=False),
        sa.Column("stored_id", sa.String(length=36), nullable=False),
        sa.Column("held_file", sa.String(length=255), nullable=True),
        sa.Column("fault", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_backups")),
        sa.UniqueConstraint("id", name=op.f("uq_backups_id")),
    )
    with op.batch_alter_table("backups", schema=None) as batch:
        batch.create_index("ix_backups_project", ["project_id", "seq"], unique=False)
        batch.create_index("ix_backups_volume", ["volume_id", "seq"], unique=False)
        batch.create_index("ix_backups_parent", ["parent_id"], unique=False)

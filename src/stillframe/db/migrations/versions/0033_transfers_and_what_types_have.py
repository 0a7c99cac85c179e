"""Transfers, access to private types, qos-specs, messages, quota classes, what administrators set of services"""

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0040"
branch_labels = None
depends_on = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Makes what has tables of its own, then adds to the tables that are there."""
    _transfers()
    _messages()
    _of_types()
    _of_administrators()
    with op.batch_alter_table("volume_types") as batch:
        batch.add_column(sa.Column("qos_specs_id", sa.String(36)))
    with op.batch_alter_table("volumes") as batch:
        batch.add_column(sa.Column("readonly", sa.Boolean()))


def _of_types() -> None:
    op.create_table(
        "volume_type_access",
        sa.Column("volume_type_id", sa.String(36), nullable=False),
        sa.Column("project_id", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("volume_type_id", "project_id", name="pk_volume_type_access"),
    )
    op.create_table(
        "qos_specs",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("consumer", sa.String(16), nullable=False),
        sa.Column("specs", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime()),
        sa.PrimaryKeyConstraint("id", name="pk_qos_specs"),
        sa.UniqueConstraint("name", name="uq_qos_specs_name"),
    )


def _transfers() -> None:
    op.create_table(
        "volume_transfers",
        sa.Column("seq", _SEQUENCE, nullable=False, autoincrement=True),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("project_id", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255)),
        sa.Column("volume_id", sa.String(36), nullable=False),
        sa.Column("salt", sa.String(32), nullable=False),
        sa.Column("key_digest", sa.String(64), nullable=False),
        sa.Column("no_snapshots", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime()),
        sa.PrimaryKeyConstraint("seq", name="pk_volume_transfers"),
        sa.UniqueConstraint("id", name="uq_volume_transfers_id"),
    )
    op.create_index("ix_transfers_project", "volume_transfers", ["project_id", "seq"])
    op.create_index("ix_transfers_volume", "volume_transfers", ["volume_id"])


def _messages() -> None:
    op.create_table(
        "messages",
        sa.Column("seq", _SEQUENCE, nullable=False, autoincrement=True),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("project_id", sa.String(255), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("resource_type", sa.String(36), nullable=False),
        sa.Column("resource_uuid", sa.String(36), nullable=False),
        sa.Column("event_id", sa.String(64), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime()),
        sa.PrimaryKeyConstraint("seq", name="pk_messages"),
        sa.UniqueConstraint("id", name="uq_messages_id"),
    )
    op.create_index("ix_messages_project", "messages", ["project_id", "seq"])


def _of_administrators() -> None:
    op.create_table(
        "quota_classes",
        sa.Column("class_name", sa.String(191), nullable=False),
        sa.Column("resource", sa.String(64), nullable=False),
        sa.Column("hard_limit", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("class_name", "resource", name="pk_quota_classes"),
    )
    op.create_table(
        "service_states",
        sa.Column("binary", sa.String(64), nullable=False),
        sa.Column("host", sa.String(191), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("disabled_reason", sa.Text()),
        sa.Column("frozen", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("binary", "host", name="pk_service_states"),
    )

"""Policies that take and delete assisted snapshots"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("assisted_snapshots") as batch:
        batch.add_column(sa.Column("policy_id", sa.String(length=36), nullable=True))
        batch.add_column(sa.Column("warnings", sa.JSON(none_as_null=True), nullable=True))
        batch.add_column(sa.Column("retired_at", sa.DateTime(), nullable=True))
        batch.create_index("ix_assisted_policy", ["policy_id", "seq"], unique=False)
    op.create_table(
        "snapshot_policies",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("server_id", sa.String(length=36), nullable=False),
        sa.Column("schedule", sa.String(length=128), nullable=True),
        sa.Column("timezone", sa.String(length=64), nullable=False),
        sa.Column("quiesce", sa.String(length=16), nullable=False),
        sa.Column("volumes", sa.JSON(), nullable=False),
        sa.Column("keep_last", sa.Integer(), nullable=False),
        sa.Column("keep_hourly", sa.Integer(), nullable=False),
        sa.Column("keep_daily", sa.Integer(), nullable=False),
        sa.Column("keep_weekly", sa.Integer(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("next_run", sa.DateTime(), nullable=True),
        sa.Column("due_at", sa.DateTime(), nullable=True),
        sa.Column("trying_since", sa.DateTime(), nullable=True),
        sa.Column("last_run", sa.DateTime(), nullable=True),
        sa.Column("last_set_id", sa.String(length=36), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("retention_error", sa.Text(), nullable=True),
        sa.Column("retention_note", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_snapshot_policies")),
        sa.UniqueConstraint("id", name=op.f("uq_snapshot_policies_id")),
    )
    with op.batch_alter_table("snapshot_policies", schema=None) as batch:
        batch.create_index("ix_policies_project", ["project_id", "seq"], unique=False)
        batch.create_index("ix_policies_server", ["server_id", "seq"], unique=False)
        batch.create_index("ix_policies_due", ["next_run"], unique=False)

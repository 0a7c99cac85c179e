"""What assisted snapshots of a server keep to, and the instant of each switch"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("assisted_snapshots") as batch:
        batch.add_column(sa.Column("switched_at", sa.DateTime(), nullable=True))
        batch.add_column(sa.Column("switched_at_uncertainty_ms", sa.Float(), nullable=True))
        batch.add_column(sa.Column("switched_at_note", sa.Text(), nullable=True))
    op.create_table(
        "server_settings",
        sa.Column("server_id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("quiesce", sa.String(length=16), nullable=True),
        sa.Column("allow_unfreezable", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("hook_timeout", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("server_id", name=op.f("pk_server_settings")),
    )

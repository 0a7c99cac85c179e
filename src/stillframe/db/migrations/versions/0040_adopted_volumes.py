"""Volumes that were adopted where they are keep the names of their files; compute records which disks they are"""

import sqlalchemy as sa
from alembic import op

revision = "0040"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("volumes", sa.Column("base_file", sa.String(255)))
    op.create_index("ix_volumes_base_file", "volumes", ["base_file"])
    op.create_table(
        "adopted_disks",
        sa.Column("server_id", sa.String(36), primary_key=True),
        sa.Column("target", sa.String(32), primary_key=True),
        sa.Column("file", sa.Text, nullable=False),
        sa.Column("volume_id", sa.String(36), nullable=False, unique=True),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("updated_at", sa.DateTime),
        sa.Column("ends_chain", sa.Boolean, nullable=False),
    )

"""Whose an operation is, so that projects take turns"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("operations") as batch:
        batch.add_column(sa.Column("project_id", sa.String(length=255), server_default="", nullable=False))
    with op.batch_alter_table("operations") as batch:  # of those that are there nobody knows any more
        batch.alter_column("project_id", server_default=None)
    op.create_index("ix_operations_project", "operations", ["service", "project_id", "state", "seq"], unique=False)

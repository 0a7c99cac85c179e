"""Who wants an operation to end says so in its row, and a worker finds what is due by an index"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("operations") as batch:
        batch.add_column(sa.Column("cancel_asked", sa.Integer(), server_default="0", nullable=False))
    with op.batch_alter_table("operations") as batch:  # whoever inserts a row says it
        batch.alter_column("cancel_asked", server_default=None)
    op.create_index("ix_operations_due", "operations", ["service", "state", "lease_until", "project_id"], unique=False)

"""Since when a running guest has been seen without the disk of an attachment"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attachments", sa.Column("missing_since", sa.DateTime()))

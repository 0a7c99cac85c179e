"""An adopted volume may read through files that no volume owns; those are not to be adopted themselves"""

import sqlalchemy as sa
from alembic import op

revision = "0044"
down_revision = "0043"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("volumes", sa.Column("parent_images", sa.JSON(none_as_null=True)))

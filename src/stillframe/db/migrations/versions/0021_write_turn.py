"""The row that whoever writes has locked"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    made = op.create_table(
        "write_turn",
        sa.Column("only_one", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("only_one", name=op.f("pk_write_turn")),
    )
    op.bulk_insert(made, [{"only_one": 1}])

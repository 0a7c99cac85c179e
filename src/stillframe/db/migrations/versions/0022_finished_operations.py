"""Which finished operations nobody needs any more, how many there were, and which volumes there ever were"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("operations") as batch:
        batch.add_column(sa.Column("unneeded_since", sa.DateTime(), nullable=True))
        batch.create_index("ix_operations_unneeded", ["unneeded_since", "state"], unique=False)
    op.create_table(
        "operation_totals",
        sa.Column("service", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("service", "kind", "state", name=op.f("pk_operation_totals")),
    )
    op.create_table(
        "known_volumes",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_known_volumes")),
    )
    op.execute(
        "UPDATE operations SET unneeded_since = COALESCE(updated_at, created_at) WHERE state IN ('done', 'undone')"
        " AND (fault IS NULL OR CAST(fault AS CHAR(4000)) NOT LIKE '%\"abandoned\"%')"
    )
    op.execute(
        "INSERT INTO operation_totals (service, kind, state, amount, bytes) SELECT service, kind, state, COUNT(*), SUM(bytes)"
        " FROM operations WHERE state IN ('done', 'undone') GROUP BY service, kind, state"
    )
    op.execute(
        "INSERT INTO known_volumes (id) SELECT DISTINCT SUBSTR(resource, 8) FROM operation_resources WHERE resource LIKE 'volume:%'"
    )

"""What every table is made with: the one ``metadata``, and columns that several tables have."""

from datetime import UTC, datetime

from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, String, Text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)
SEQUENCE = BigInteger().with_variant(Integer, "sqlite")


def now() -> datetime:
    """The time rows carry: naive UTC, only for display; order comes from sequences."""
    return datetime.now(UTC).replace(tzinfo=None)


def owned() -> list[Column[str]]:
    """Returns the columns of what belongs to a project and may have a name."""
    return [
        Column("id", String(36), nullable=False, unique=True),
        Column("project_id", String(255), nullable=False),
        Column("user_id", String(255), nullable=False),
        Column("name", String(255)),
        Column("description", Text),
    ]


def times() -> list[Column[datetime]]:
    """Returns the columns that say when a row was made and last changed."""
    return [Column("created_at", DateTime, nullable=False, default=now), Column("updated_at", DateTime, onupdate=now)]

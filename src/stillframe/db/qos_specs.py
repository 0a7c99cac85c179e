"""Qos-specs: limits that volume types may have."""

from typing import Unpack

from sqlalchemy import Connection, select, update
from sqlalchemy import delete as sql_delete

from stillframe.db.queries import many, one
from stillframe.db.rows import QosSpecsRow
from stillframe.db.tables import qos_specs, volume_types
from stillframe.db.values import NewQosSpecs, QosSpecsChanges


def list_all(connection: Connection) -> list[QosSpecsRow]:
    """Returns all of them, by name."""
    return many(QosSpecsRow, connection, select(qos_specs).order_by(qos_specs.c.name))


def get(connection: Connection, qos_specs_id: str) -> QosSpecsRow | None:
    """Returns the row, or None."""
    return one(QosSpecsRow, connection, select(qos_specs).where(qos_specs.c.id == qos_specs_id))


def named(connection: Connection, name: str) -> QosSpecsRow | None:
    """Returns the row of that name, or None."""
    return one(QosSpecsRow, connection, select(qos_specs).where(qos_specs.c.name == name))


def insert(connection: Connection, row: NewQosSpecs) -> None:
    """Inserts qos-specs. Raises IntegrityError for a name that is taken."""
    connection.execute(qos_specs.insert(), row)


def change(connection: Connection, qos_specs_id: str, /, **values: Unpack[QosSpecsChanges]) -> None:
    """Changes the columns that are named."""
    connection.execute(update(qos_specs).where(qos_specs.c.id == qos_specs_id).values(**values))


def delete(connection: Connection, qos_specs_id: str) -> None:
    """Deletes qos-specs; the types that have them have none then."""
    release(connection, qos_specs_id)
    connection.execute(sql_delete(qos_specs).where(qos_specs.c.id == qos_specs_id))


def release(connection: Connection, qos_specs_id: str) -> None:
    """No volume type has the qos-specs any more."""
    connection.execute(update(volume_types).where(volume_types.c.qos_specs_id == qos_specs_id).values(qos_specs_id=None))

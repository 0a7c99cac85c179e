"""Sets: what is read of many at once."""

from typing import Any

from stillframe.db import assisted_snapshots
from stillframe.db.engine import Database
from stillframe.db.values import NewAssistedSnapshot
from tests.unit.builders import SERVER, new_id

DOCUMENTS: tuple[dict[str, Any] | None, ...] = (
    {"level": "filesystem", "frozen_ms": 450.25},
    {"level": "filesystem", "frozen_ms": 60},
    {"level": "filesystem", "frozen_ms": 40000.0, "disks": {"vda": {"frozen_ms": 7}}},
    {"level": "crash", "frozen_ms": None},
    {"level": "crash", "frozen_ms": 0},
    {"level": "crash"},
    None,
)


def test_how_long_guests_were_frozen_is_told_of_the_sets_that_know(database: Database) -> None:
    """Whatever database it is: none keeps numbers in a document like another one."""
    for consistency in DOCUMENTS:
        row: NewAssistedSnapshot = {
            "id": new_id(),
            "project_id": "demo",
            "user_id": "u",
            "server_id": SERVER,
            "metadata": {},
            "status": "available",
            "progress": 100,
            "quiesce": "preferred",
            "consistency": consistency,
            "volumes": [],
            "excluded_disks": [],
        }
        with database.write() as connection:
            assisted_snapshots.insert(connection, row)
    with database.read() as connection:
        assert sorted(assisted_snapshots.frozen_ms(connection)) == [60.0, 450.25, 40000.0]

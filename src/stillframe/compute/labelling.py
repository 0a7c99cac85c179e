"""Name, description and metadata of a set. Its snapshots keep those they were made with."""

from collections.abc import Mapping
from typing import Any

from stillframe.compute import snapshotting
from stillframe.compute.world import World
from stillframe.context import Context
from stillframe.db import assisted_snapshots
from stillframe.errors import Conflict


def change(world: World, context: Context, set_id: str, changes: dict[str, Any]) -> None:
    """Changes what is named; ``metadata`` is replaced as a whole. Raises NotFound, and Conflict for a set that is going."""
    row = snapshotting.find(world, context, set_id, None)
    with world.database.write() as connection:
        fresh = assisted_snapshots.get(connection, row["id"], None)
        if fresh is None or fresh["status"] == "deleting":
            raise Conflict(f"assisted snapshot {row['id']} is being deleted; a label comes too late")
        assisted_snapshots.change(connection, row["id"], **changes)


METHODS: Mapping[str, Any] = {"change_assisted_snapshot": change}

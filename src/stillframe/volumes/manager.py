"""The methods an API may call on the block storage worker, by name."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from stillframe.db import snapshots
from stillframe.errors import BadImage, ChainConflict, FileInUse, HostCommandFailed, of_os_error
from stillframe.journal import record
from stillframe.volumes import (
    attaching,
    backing_up,
    backup_costs,
    chain_view,
    imaging,
    managing,
    releasing,
    snapshotting,
    typing_volumes,
    volume_changing,
    volume_making,
)
from stillframe.volumes.world import World

LOG = logging.getLogger(__name__)
ROOMS = (
    volume_making,
    volume_changing,
    snapshotting,
    attaching,
    imaging,
    backing_up,
    backup_costs,
    managing,
    releasing,
    typing_volumes,
    chain_view,
)

# What leaves nothing to be done at once: the worker, which would look for it in vain, is let be.
NOTHING_DUE = ("connection_infos", "create_snapshot_metadata", "finalize_snapshot_metadata")


@dataclass(frozen=True)
class Manager:
    """The worker's side of the API: each method checks, changes rows in one transaction, and wakes the worker."""

    world: World
    wake: Callable[[], None]

    def methods(self) -> dict[str, Callable[..., Any]]:
        """Returns every method by name; the first parameter of each is the caller's context."""
        table = {name: method for room in ROOMS for name, method in room.METHODS.items()}
        return {name: partial(self._run, method, name not in NOTHING_DUE) for name, method in table.items()}

    def _run(self, method: Callable[..., Any], due: bool, context: Any, **parameters: Any) -> Any:
        try:
            answer = self._answer(method, context, parameters)
        except OSError as error:
            LOG.warning("a request is refused: %s", error)
            raise of_os_error(error) from error
        if due:
            self.wake()
        return answer

    def _answer(self, method: Callable[..., Any], context: Any, parameters: Mapping[str, Any]) -> Any:
        try:
            return method(self.world, context, **parameters)
        except (FileNotFoundError, HostCommandFailed, FileInUse, BadImage, ChainConflict):
            # What is found wrong while an operation changes the files is that operation's doing, which may have ended since.
            self._refuse_what_changes(parameters)
            return method(self.world, context, **parameters)

    def _refuse_what_changes(self, parameters: Mapping[str, Any]) -> None:
        named = {**parameters, **(parameters.get("wanted") or {})}
        snapshot_ids = [*(named.get("snapshot_ids") or []), named.get("snapshot_id")]
        with self.world.database.read() as connection:
            rows = [snapshots.get(connection, str(each), None) for each in snapshot_ids if each]
            volume_ids = {named.get("volume_id"), named.get("source_volid"), *(row["volume_id"] for row in rows if row)}
            for volume_id in sorted(str(each) for each in volume_ids if each):
                record.refuse_if_busy(connection, f"volume:{volume_id}")

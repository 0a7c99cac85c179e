"""The methods an API may call on the block storage worker, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from stillframe.volumes import (
    attaching,
    backing_up,
    chain_view,
    imaging,
    managing,
    snapshotting,
    typing_volumes,
    volume_changing,
    volume_making,
)
from stillframe.volumes.world import World

ROOMS = (
    volume_making,
    volume_changing,
    snapshotting,
    attaching,
    imaging,
    backing_up,
    managing,
    typing_volumes,
    chain_view,
)


@dataclass(frozen=True)
class Manager:
    """The worker's side of the API: each method checks, changes rows in one transaction, and wakes the worker."""

    world: World
    wake: Callable[[], None]

    def methods(self) -> dict[str, Callable[..., Any]]:
        """Returns every method by name; the first parameter of each is the caller's context."""
        table = {name: method for room in ROOMS for name, method in room.METHODS.items()}
        return {name: partial(self._run, method) for name, method in table.items()}

    def _run(self, method: Callable[..., Any], context: Any, **parameters: Any) -> Any:
        answer = method(self.world, context, **parameters)
        self.wake()
        return answer

"""The methods an API may call on the compute worker, by name."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from stillframe.compute import (
    attaching,
    labelling,
    merging,
    policy_making,
    powering,
    server_settings,
    set_costs,
    snapshotting,
    using,
)
from stillframe.compute.world import World
from stillframe.errors import of_os_error

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manager:
    """The worker's side of the API: each method looks at libvirt and block storage, checks, plans, and wakes the worker."""

    world: World
    wake: Callable[[], None]

    def methods(self) -> dict[str, Callable[..., Any]]:
        """Returns every method by name; the first parameter of each is the caller's context."""
        rooms = (
            powering,
            attaching,
            snapshotting,
            merging,
            labelling,
            policy_making,
            server_settings,
            set_costs,
            using,
        )
        table = {name: method for room in rooms for name, method in room.METHODS.items()}
        return {name: partial(self._run, method) for name, method in table.items()}

    def _run(self, method: Callable[..., Any], context: Any, **parameters: Any) -> Any:
        try:
            answer = method(self.world, context, **parameters)
        except OSError as error:
            LOG.warning("a request is refused: %s", error)
            raise of_os_error(error) from error
        self.wake()
        return answer

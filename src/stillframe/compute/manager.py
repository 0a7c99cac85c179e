"""The methods an API may call on the compute worker, by name."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

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
from stillframe.compute.rpcapi import ComputeWorker
from stillframe.compute.world import World
from stillframe.context import Context
from stillframe.errors import of_os_error
from stillframe.rpc.bus import Methods, table

LOG = logging.getLogger(__name__)


P = ParamSpec("P")
Answer = TypeVar("Answer")


def answered_by(
    method: Callable[Concatenate[World, Context, P], Answer],
) -> "Callable[Concatenate[Manager, Context, P], Answer]":
    """Makes a method of the manager of a function that checks a request. Raises what the system refuses as an error a person
    is meant to read."""

    def answer(manager: "Manager", context: Context, /, *given: P.args, **parameters: P.kwargs) -> Answer:
        try:
            found = method(manager.world, context, *given, **parameters)
        except OSError as error:
            LOG.warning("a request is refused: %s", error)
            raise of_os_error(error) from error
        manager.wake()
        return found

    return answer


@dataclass(frozen=True)
class Manager:
    """The worker's side of the API: each method looks at libvirt and block storage, checks, plans, and wakes the worker."""

    world: World
    wake: Callable[[], None]

    attach_volume = answered_by(attaching.attach)
    detach_volume = answered_by(attaching.detach)
    list_attached = answered_by(attaching.list_attached)
    change_assisted_snapshot = answered_by(labelling.change)
    reset_assisted_snapshot_status = answered_by(labelling.reset_status)
    server_of_volume = answered_by(merging.server_of)
    merge_volume = answered_by(merging.merge_volume)
    merge_status = answered_by(merging.merge_status)
    cancel_merge = answered_by(merging.cancel_merge)
    resize_disk = answered_by(merging.resize_disk)
    switch_disk_file = answered_by(merging.switch_file)
    create_snapshot_policy = answered_by(policy_making.create)
    change_snapshot_policy = answered_by(policy_making.change)
    delete_snapshot_policy = answered_by(policy_making.delete)
    list_servers = answered_by(powering.list_servers)
    show_server = answered_by(powering.show_server)
    power = answered_by(powering.power)
    show_server_settings = answered_by(server_settings.show)
    change_server_settings = answered_by(server_settings.change)
    explain_assisted_snapshot = answered_by(set_costs.explain_deletion)
    create_assisted_snapshot = answered_by(snapshotting.create)
    delete_assisted_snapshot = answered_by(snapshotting.delete)
    create_assisted_volume_snapshot = answered_by(snapshotting.create_for_volume)
    users_of_volume = answered_by(using.users_of_volume)
    named_files = answered_by(using.named_files)

    def methods(self) -> Methods:
        """Returns every method by name; the first parameter of each is the caller's context."""
        worker: ComputeWorker = self
        return table(ComputeWorker, worker)

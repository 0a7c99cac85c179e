"""The methods an API may call on the compute worker, by name."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

from stillframe.compute.requests import (
    adopted_disks,
    assisted_snapshot_costs,
    assisted_snapshot_deletions,
    assisted_snapshot_labels,
    assisted_volume_snapshots,
    assisted_volumes,
    volume_users,
)
from stillframe.compute.requests import assisted_snapshot_settings as settings_requests
from stillframe.compute.requests import assisted_snapshots as assisted_snapshot_requests
from stillframe.compute.requests import attachments as attachment_requests
from stillframe.compute.requests import servers as server_requests
from stillframe.compute.requests import snapshot_policies as policy_requests
from stillframe.compute.rpcapi import ComputeWorker
from stillframe.compute.worker.context import WorkerContext
from stillframe.context import Context
from stillframe.errors import of_os_error
from stillframe.rpc.bus import Methods, table

LOG = logging.getLogger(__name__)


P = ParamSpec("P")
Answer = TypeVar("Answer")


def answered_by(
    method: Callable[Concatenate[WorkerContext, Context, P], Answer],
) -> "Callable[Concatenate[Manager, Context, P], Answer]":
    """Makes a method of the manager from a function that checks a request. Turns what the system refuses into an error for
    people."""

    def answer(manager: "Manager", context: Context, /, *given: P.args, **parameters: P.kwargs) -> Answer:
        try:
            found = method(manager.worker, context, *given, **parameters)
        except OSError as error:
            LOG.warning("a request is refused: %s", error)
            raise of_os_error(error) from error
        manager.wake()
        return found

    return answer


@dataclass(frozen=True)
class Manager:
    """The worker's side of the API: each method looks at libvirt and block storage, checks, plans, and wakes the worker."""

    worker: WorkerContext
    wake: Callable[[], None]

    look_at_disks = answered_by(adopted_disks.look)
    adopt_disks = answered_by(adopted_disks.adopt)
    release_disks = answered_by(adopted_disks.release)
    attach_volume = answered_by(attachment_requests.attach)
    detach_volume = answered_by(attachment_requests.detach)
    list_attached = answered_by(attachment_requests.list_attached)
    change_assisted_snapshot = answered_by(assisted_snapshot_labels.change)
    reset_assisted_snapshot_status = answered_by(assisted_snapshot_labels.reset_status)
    server_of_volume = answered_by(assisted_volumes.server_of)
    merge_volume = answered_by(assisted_volumes.merge_volume)
    merge_status = answered_by(assisted_volumes.merge_status)
    cancel_merge = answered_by(assisted_volumes.cancel_merge)
    resize_disk = answered_by(assisted_volumes.resize_disk)
    switch_disk_file = answered_by(assisted_volumes.switch_file)
    create_snapshot_policy = answered_by(policy_requests.create)
    change_snapshot_policy = answered_by(policy_requests.change)
    delete_snapshot_policy = answered_by(policy_requests.delete)
    list_servers = answered_by(server_requests.list_servers)
    show_server = answered_by(server_requests.show_server)
    power = answered_by(server_requests.power)
    show_server_settings = answered_by(settings_requests.show)
    change_server_settings = answered_by(settings_requests.change)
    explain_assisted_snapshot = answered_by(assisted_snapshot_costs.explain_deletion)
    create_assisted_snapshot = answered_by(assisted_snapshot_requests.create)
    delete_assisted_snapshot = answered_by(assisted_snapshot_deletions.delete)
    create_assisted_volume_snapshot = answered_by(assisted_volume_snapshots.create)
    users_of_volume = answered_by(volume_users.users_of_volume)
    named_files = answered_by(volume_users.named_files)

    def methods(self) -> Methods:
        """Returns every method by name; the first parameter of each is the caller's context."""
        worker: ComputeWorker = self
        return table(ComputeWorker, worker)

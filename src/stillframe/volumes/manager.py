"""The methods an API may call on the block storage worker, by name."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

from stillframe.context import Context
from stillframe.db import snapshots
from stillframe.errors import BadImage, ChainConflict, FileInUse, HostCommandFailed, of_os_error
from stillframe.journal import record
from stillframe.rpc.bus import Methods, table
from stillframe.volumes.chain import view as chain_view
from stillframe.volumes.requests import (
    adopted_volumes,
    backup_costs,
    force_detach,
    groups_from_source,
    new_volumes,
    pools,
    quotas,
    reservations,
)
from stillframe.volumes.requests import attachments as attachment_requests
from stillframe.volumes.requests import backups as backup_requests
from stillframe.volumes.requests import group_snapshots as group_snapshot_requests
from stillframe.volumes.requests import group_types as group_type_requests
from stillframe.volumes.requests import groups as group_requests
from stillframe.volumes.requests import images as image_requests
from stillframe.volumes.requests import manageable_volumes as manageable_volume_requests
from stillframe.volumes.requests import messages as message_requests
from stillframe.volumes.requests import qos_specs as qos_spec_requests
from stillframe.volumes.requests import retype as retype_requests
from stillframe.volumes.requests import services as service_requests
from stillframe.volumes.requests import snapshots as snapshot_requests
from stillframe.volumes.requests import transfers as transfer_requests
from stillframe.volumes.requests import volume_types as volume_type_requests
from stillframe.volumes.requests import volumes as volume_requests
from stillframe.volumes.rpcapi import VolumesWorker
from stillframe.volumes.worker.context import WorkerContext

LOG = logging.getLogger(__name__)
P = ParamSpec("P")
Answer = TypeVar("Answer")


def answered_by(
    method: Callable[Concatenate[WorkerContext, Context, P], Answer], due: bool = True
) -> "Callable[Concatenate[Manager, Context, P], Answer]":
    """Makes a method of the manager from a function that checks a request. ``due``: the worker has something to do afterwards
    and is woken."""

    def answer(manager: "Manager", context: Context, /, *given: P.args, **parameters: P.kwargs) -> Answer:
        found = manager.run(lambda: method(manager.worker, context, *given, **parameters), parameters)
        if due:
            manager.wake()
        return found

    return answer


@dataclass(frozen=True)
class Manager:
    """The worker's side of the API: each method checks, changes rows in one transaction, and wakes the worker."""

    worker: WorkerContext
    wake: Callable[[], None]

    create_attachment = answered_by(attachment_requests.create)
    update_attachment = answered_by(attachment_requests.update)
    complete_attachment = answered_by(attachment_requests.complete)
    delete_attachment = answered_by(attachment_requests.delete)
    report_guest_disk = answered_by(attachment_requests.report_guest_disk)
    note_volume_fault = answered_by(attachment_requests.note_fault)
    connection_infos = answered_by(attachment_requests.connection_infos, due=False)
    create_backup = answered_by(backup_requests.create)
    restore_backup = answered_by(backup_requests.restore)
    delete_backup = answered_by(backup_requests.delete)
    update_backup = answered_by(backup_requests.update)
    reset_backup_status = answered_by(backup_requests.reset_status)
    export_backup = answered_by(backup_requests.export_record)
    import_backup = answered_by(backup_requests.import_record)
    create_volume_from_backup = answered_by(backup_requests.create_volume)
    explain_backup = answered_by(backup_costs.explain_create)
    explain_restore = answered_by(backup_costs.explain_restore)
    explain_backup_deletion = answered_by(backup_costs.explain_delete)
    show_chain = answered_by(chain_view.show)
    create_volume_from_image = answered_by(image_requests.create_volume)
    upload_volume = answered_by(image_requests.upload)
    manage_volume = answered_by(manageable_volume_requests.manage)
    manageable_volumes = answered_by(manageable_volume_requests.manageable)
    force_detach_volume = answered_by(force_detach.force_detach)
    create_snapshot = answered_by(snapshot_requests.create)
    update_snapshot = answered_by(snapshot_requests.update)
    set_snapshot_metadata = answered_by(snapshot_requests.set_metadata)
    delete_snapshot_metadata_key = answered_by(snapshot_requests.delete_metadata_key)
    delete_snapshot = answered_by(snapshot_requests.delete)
    delete_snapshots = answered_by(snapshot_requests.delete_several)
    explain_snapshots = answered_by(snapshot_requests.explain_several)
    cancel_snapshot_deletion = answered_by(snapshot_requests.cancel_deletion)
    reset_snapshot_status = answered_by(snapshot_requests.reset_status)
    create_snapshot_metadata = answered_by(snapshot_requests.create_metadata, due=False)
    create_set_metadata = answered_by(snapshot_requests.create_set_metadata, due=False)
    finalize_set_metadata = answered_by(snapshot_requests.finalize_set_metadata, due=False)
    finalize_snapshot_metadata = answered_by(snapshot_requests.finalize_metadata, due=False)
    snapshot_delete_metadata = answered_by(snapshot_requests.drop_metadata)
    update_snapshot_status = answered_by(snapshot_requests.update_status)
    create_transfer = answered_by(transfer_requests.create, due=False)
    accept_transfer = answered_by(transfer_requests.accept)
    delete_transfer = answered_by(transfer_requests.delete, due=False)
    reserve_volume = answered_by(reservations.reserve, due=False)
    unreserve_volume = answered_by(reservations.unreserve, due=False)
    begin_detaching = answered_by(reservations.begin_detaching, due=False)
    roll_detaching = answered_by(reservations.roll_detaching, due=False)
    attach_volume = answered_by(reservations.attach)
    detach_volume = answered_by(reservations.detach)
    set_volume_readonly = answered_by(reservations.set_readonly)
    retype_volume = answered_by(retype_requests.retype)
    delete_message = answered_by(message_requests.delete, due=False)
    set_service_state = answered_by(service_requests.set_state, due=False)
    set_quota_class = answered_by(quotas.set_class, due=False)
    add_type_access = answered_by(volume_type_requests.add_access, due=False)
    remove_type_access = answered_by(volume_type_requests.remove_access, due=False)
    create_qos_specs = answered_by(qos_spec_requests.create, due=False)
    change_qos_specs = answered_by(qos_spec_requests.change, due=False)
    delete_qos_spec_keys = answered_by(qos_spec_requests.delete_keys, due=False)
    delete_qos_specs = answered_by(qos_spec_requests.delete, due=False)
    associate_qos_specs = answered_by(qos_spec_requests.associate, due=False)
    disassociate_qos_specs = answered_by(qos_spec_requests.disassociate, due=False)
    create_type = answered_by(volume_type_requests.create)
    update_type = answered_by(volume_type_requests.update)
    delete_type = answered_by(volume_type_requests.delete)
    set_type_extra_specs = answered_by(volume_type_requests.set_extra_specs)
    delete_type_extra_spec = answered_by(volume_type_requests.delete_extra_spec)
    create_group_type = answered_by(group_type_requests.create, due=False)
    update_group_type = answered_by(group_type_requests.update, due=False)
    delete_group_type = answered_by(group_type_requests.delete, due=False)
    set_group_specs = answered_by(group_type_requests.set_specs, due=False)
    delete_group_spec = answered_by(group_type_requests.delete_spec, due=False)
    create_group = answered_by(group_requests.create, due=False)
    create_group_from_source = answered_by(groups_from_source.create)
    update_group = answered_by(group_requests.update, due=False)
    delete_group = answered_by(group_requests.delete)
    reset_group_status = answered_by(group_requests.reset_status, due=False)
    create_group_snapshot = answered_by(group_snapshot_requests.create)
    delete_group_snapshot = answered_by(group_snapshot_requests.delete)
    reset_group_snapshot_status = answered_by(group_snapshot_requests.reset_status, due=False)
    look_at_adoptable = answered_by(adopted_volumes.look)
    adopt_volume = answered_by(adopted_volumes.adopt)
    release_volume = answered_by(adopted_volumes.release)
    list_pools = answered_by(pools.pools)
    update_volume = answered_by(volume_requests.update)
    set_volume_metadata = answered_by(volume_requests.set_metadata)
    delete_volume_metadata_key = answered_by(volume_requests.delete_metadata_key)
    set_volume_bootable = answered_by(volume_requests.set_bootable)
    set_volume_image_metadata = answered_by(volume_requests.set_image_metadata)
    unset_volume_image_metadata = answered_by(volume_requests.unset_image_metadata)
    delete_volume = answered_by(volume_requests.delete)
    extend_volume = answered_by(volume_requests.extend)
    revert_volume = answered_by(volume_requests.revert)
    undo_revert = answered_by(volume_requests.undo_revert)
    reset_volume_status = answered_by(volume_requests.reset_status)
    unmanage_volume = answered_by(volume_requests.unmanage)
    set_quotas = answered_by(quotas.set_quotas)
    clear_quotas = answered_by(quotas.clear_quotas)
    create_volume = answered_by(new_volumes.create)

    def methods(self) -> Methods:
        """Returns every method by name; the first parameter of each is the caller's context."""
        worker: VolumesWorker = self
        return table(VolumesWorker, worker)

    def run(self, ask: Callable[[], Answer], parameters: Mapping[str, Any]) -> Answer:
        """Turns what the system refuses into an error for people."""
        try:
            return self._answer(ask, parameters)
        except OSError as error:
            LOG.warning("a request is refused: %s", error)
            raise of_os_error(error) from error

    def _answer(self, ask: Callable[[], Answer], parameters: Mapping[str, Any]) -> Answer:
        try:
            return ask()
        except (FileNotFoundError, HostCommandFailed, FileInUse, BadImage, ChainConflict):
            # A fault that is found while an operation changes the files may be caused by it, and it may have ended since.
            self._refuse_what_changes(parameters)
            return ask()

    def _refuse_what_changes(self, parameters: Mapping[str, Any]) -> None:
        named = {**parameters, **(parameters.get("wanted") or {})}
        snapshot_ids = [*(named.get("snapshot_ids") or []), named.get("snapshot_id")]
        with self.worker.database.read() as connection:
            rows = [snapshots.get(connection, str(each), None) for each in snapshot_ids if each]
            volume_ids = {named.get("volume_id"), named.get("source_volid"), *(row["volume_id"] for row in rows if row)}
            for volume_id in sorted(str(each) for each in volume_ids if each):
                record.refuse_if_busy(connection, f"volume:{volume_id}")

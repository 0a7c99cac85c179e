"""What block storage's API may ask its worker: every method with its parameters and its answer, all of them JSON documents.

``Manager`` answers them (mypy sees that it has each of them as it is written here), and ``worker`` asks them, in the same
process or over the worker's socket.
"""

from collections.abc import Sequence
from typing import Any, Protocol, cast

from stillframe.context import Context
from stillframe.rpc.bus import Proxy
from stillframe.web.route import Call

Document = dict[str, Any]


class VolumesWorker(Protocol):
    """The worker, asked as a user: what the user may not see or do is refused as if it were asked for over REST."""

    def look_at_adoptable(self, context: Context, /, *, wanted: Document) -> Document:
        """Returns what the volume of a file that a server has would be: ``{"size"}`` in bytes. Raises BadRequest, BadImage,
        Conflict, ForeignShare, ShareUnavailable."""

    def adopt_volume(self, context: Context, /, *, wanted: Document) -> str:
        """Makes a volume of a file that a server has, attached to it; returns its id. Raises as ``look_at_adoptable``, and
        QuotaExceeded."""

    def release_volume(self, context: Context, /, *, volume_id: str, keep_files: bool) -> str:
        """Ends what ``adopt_volume`` began: the files stay. Returns the operation's id. Raises NotFound, Busy, Conflict."""

    def create_attachment(self, context: Context, /, *, wanted: Document) -> str:
        """Reserves the volume for a server (``instance_uuid``), and connects it when a connector is given. Returns its id.
        Raises BadRequest, Conflict, NotFound."""

    def update_attachment(self, context: Context, /, *, attachment_id: str, connector: Document) -> None:
        """Gives the attachment its connector; may be repeated. Raises BadImage, ChainConflict,
        ShareUnavailable as ``create``."""

    def complete_attachment(self, context: Context, /, *, attachment_id: str) -> None:
        """Says that the server has the volume; may be repeated."""

    def delete_attachment(self, context: Context, /, *, attachment_id: str) -> list[Document]:
        """Releases the volume; returns the attachments that remain. Raises Conflict, Busy."""

    def report_guest_disk(self, context: Context, /, *, attachment_id: str, present: bool) -> None:
        """Records compute's report on an attachment: whether the running guest was just seen with the disk."""

    def note_volume_fault(self, context: Context, /, *, volume_id: str, fault: str) -> None:
        """Records why compute could not attach or detach the volume, until that succeeds."""

    def connection_infos(self, context: Context, /, *, attachment_ids: Sequence[str]) -> dict[str, Document]:
        """Returns what the hypervisor needs to open the volumes *now*, by attachment: always made from the active file, never
        stored."""

    def create_backup(self, context: Context, /, *, wanted: Document) -> str:
        """Backs up a volume nothing is attached to, or one of its snapshots whatever the volume does
        meanwhile. Returns the id."""

    def restore_backup(self, context: Context, /, *, backup_id: str, volume_id: str | None, name: str | None) -> Document:
        """Restores a backup into a new volume, or replaces the content of an unattached volume. Returns ``{"backup_id",
        "volume_id", "volume_name"}``."""

    def delete_backup(self, context: Context, /, *, backup_id: str, force: bool = False) -> None:
        """Deletes a backup that no incremental one builds on. Raises as ``check_deletable``."""

    def update_backup(self, context: Context, /, *, backup_id: str, changes: Document) -> None:
        """Changes name, description or metadata of a backup's row. Raises NotFound."""

    def reset_backup_status(self, context: Context, /, *, backup_id: str, status: str) -> None:
        """Corrects the status of a backup's row, as an administrator asked. Raises NotFound, Busy."""

    def export_backup(self, context: Context, /, *, backup_id: str) -> dict[str, str]:
        """Returns the record from which ``import_record`` makes the row again, here or elsewhere."""

    def import_backup(self, context: Context, /, *, backup_service: str, backup_url: str) -> str:
        """Makes the row of a backup again from its record."""

    def create_volume_from_backup(self, context: Context, /, *, wanted: Document) -> str:
        """``backup_id`` in a volume's request: a new volume from a backup, larger on request."""

    def explain_backup(self, context: Context, /, *, wanted: Document) -> Document:
        """Also ``parent_id``, ``bytes_stored``, ``staging_needed`` and ``staging_free``. Raises NotFound."""

    def explain_restore(
        self, context: Context, /, *, backup_id: str, volume_id: str | None = None, name: str | None = None
    ) -> Document:
        """Also ``bytes_fetched`` from the store, ``share``, ``share_free``, ``staging_needed`` and ``staging_free``. Raises
        NotFound."""

    def explain_backup_deletion(self, context: Context, /, *, backup_id: str) -> Document:
        """Also ``bytes_freed`` in the store. Raises NotFound."""

    def show_chain(self, context: Context, /, *, volume_id: str) -> Document:
        """Returns the document of ``document``, also of a chain that is not valid. Raises NotFound, ShareUnavailable."""

    def create_volume_from_image(self, context: Context, /, *, wanted: Document) -> str:
        """A new volume with an image's content."""

    def upload_volume(self, context: Context, /, *, volume_id: str, wanted: Document) -> Document:
        """``os-volume_upload_image``: a new image with the volume's content, read through its chain. Returns the answer's
        document as Cinder has it."""

    def manage_volume(self, context: Context, /, *, wanted: Document) -> str:
        """Takes over a file on a share as a new volume. Raises BadImage for a file that is no sound image standing alone."""

    def manageable_volumes(self, context: Context, /, *, host: str, offset: int = 0, limit: int = 1000) -> list[Document]:
        """Returns the image files on a share, with whether and why not each can be taken over: ``limit`` of them in the order
        of their names, after the first ``offset``."""

    def force_detach_volume(self, context: Context, /, *, volume_id: str, attachment_id: str | None = None) -> None:
        """``os-force_detach``: ends one attachment of the volume; without an id the only one. Raises BadRequest, NotFound,
        Conflict naming who uses the volume, ServiceUnavailable when that is not known."""

    def create_snapshot(self, context: Context, /, *, volume_id: str, wanted: Document) -> str:
        """Takes a snapshot of a volume that nothing is attached to, with ``force`` also of an attached one where its share has
        snapshots of its own. Returns the snapshot's id."""

    def update_snapshot(self, context: Context, /, *, snapshot_id: str, changes: Document) -> None:
        """Changes name or description of a snapshot, and the record beside the volume. Raises NotFound."""

    def set_snapshot_metadata(
        self, context: Context, /, *, snapshot_id: str, metadata: dict[str, str], replace: bool
    ) -> dict[str, str]:
        """Adds or changes keys, or with ``replace`` sets all of them; returns the metadata as it is now. Raises NotFound."""

    def delete_snapshot_metadata_key(self, context: Context, /, *, snapshot_id: str, key: str) -> None:
        """Removes one key of a snapshot's metadata. Raises NotFound."""

    def delete_snapshot(self, context: Context, /, *, snapshot_id: str, force: bool = False, bandwidth_mib: int = 0) -> None:
        """Deletes a snapshot, under a running server where there is one; a failed one that has no file loses its row."""

    def delete_snapshots(
        self, context: Context, /, *, snapshot_ids: Sequence[str], force: bool = False, bandwidth_mib: int = 0
    ) -> None:
        """Deletes snapshots of one volume in one plan, with the least copying. Raises BadRequest, Conflict listing what depends
        on one of them, ShareUnavailable with numbers when there is no room for the merge."""

    def explain_snapshots(self, context: Context, /, *, snapshot_ids: Sequence[str]) -> Document:
        """Returns what a deletion would do, without doing it: ``{"method", "steps": [{"step", "file", "into", "bytes"}],
        "bytes", "seconds", "why", "dependants", "busy", "possible", "share_free"}``."""

    def cancel_snapshot_deletion(self, context: Context, /, *, snapshot_id: str) -> None:
        """Cancels a deletion that merges under a running server. Raises Conflict when nothing can be cancelled."""

    def reset_snapshot_status(self, context: Context, /, *, snapshot_id: str, status: str) -> None:
        """``os-reset_status``: an administrator corrects a status."""

    def create_snapshot_metadata(self, context: Context, /, *, volume_id: str, wanted: Document) -> str:
        """``os-create_snapshot_metadata``: a row in "creating"; no storage is touched. Returns the snapshot's id."""

    def create_set_metadata(self, context: Context, /, *, asked: Sequence[Document]) -> list[str]:
        """The same for the snapshots of a set, all or none. Returns their ids."""

    def finalize_set_metadata(self, context: Context, /, *, asked: Sequence[Document]) -> None:
        """``finalize_snapshot_metadata`` for the snapshots of a set, all or none."""

    def finalize_snapshot_metadata(self, context: Context, /, *, snapshot_id: str, wanted: Document) -> None:
        """``os-finalize_snapshot_metadata``: from "creating" to "available" or "error"; the same call again changes nothing."""

    def snapshot_delete_metadata(self, context: Context, /, *, snapshot_id: str) -> None:
        """``os-snapshot_delete_metadata``: the row goes, storage stays."""

    def update_snapshot_status(self, context: Context, /, *, snapshot_id: str, status: str, progress: str | None) -> None:
        """``os-update_snapshot_status``: Nova's report; its 90 % may arrive after a higher figure. Raises BadRequest for a
        transition Cinder does not know."""

    def create_transfer(self, context: Context, /, *, volume_id: str, name: str | None, no_snapshots: bool) -> dict[str, str]:
        """Offers a volume to another project; returns ``{"id", "auth_key"}``. Raises NotFound, BadRequest."""

    def accept_transfer(self, context: Context, /, *, transfer_id: str, auth_key: str) -> Document:
        """Makes an offered volume the caller's. Raises NotFound for a wrong key, QuotaExceeded."""

    def delete_transfer(self, context: Context, /, *, transfer_id: str) -> None:
        """Takes an offer back. Raises NotFound."""

    def reserve_volume(self, context: Context, /, *, volume_id: str) -> None:
        """``os-reserve``: an available volume is "attaching". Raises BadRequest."""

    def unreserve_volume(self, context: Context, /, *, volume_id: str) -> None:
        """``os-unreserve``: takes ``os-reserve`` back. Raises BadRequest."""

    def begin_detaching(self, context: Context, /, *, volume_id: str) -> None:
        """``os-begin_detaching``: a volume in use is "detaching". Raises BadRequest."""

    def roll_detaching(self, context: Context, /, *, volume_id: str) -> None:
        """``os-roll_detaching``: takes ``os-begin_detaching`` back. Raises BadRequest."""

    def attach_volume(self, context: Context, /, *, volume_id: str, wanted: Document) -> None:
        """``os-attach``: records that a server or a host has the volume. Raises BadRequest, NotFound."""

    def detach_volume(self, context: Context, /, *, volume_id: str, attachment_id: str | None) -> None:
        """``os-detach``: ends an attachment of a volume that nobody uses. Raises BadRequest, NotFound, Conflict."""

    def set_volume_readonly(self, context: Context, /, *, volume_id: str, readonly: bool) -> None:
        """``os-update_readonly_flag``: whether servers may write to the volume. Raises BadRequest."""

    def retype_volume(self, context: Context, /, *, volume_id: str, new_type: str) -> None:
        """``os-retype``: another volume type, where the volume's place fits it. Raises NotFound, BadRequest."""

    def delete_message(self, context: Context, /, *, message_id: str) -> None:
        """Deletes a message. Raises NotFound."""

    def set_service_state(self, context: Context, /, *, state: Document) -> None:
        """Records what an administrator set of a service: binary, host, disabled, disabled_reason, frozen."""

    def set_quota_class(self, context: Context, /, *, class_name: str, wanted: dict[str, int]) -> None:
        """Sets limits of a quota class, by resource; -1 means none."""

    def add_type_access(self, context: Context, /, *, type_id: str, project_id: str) -> None:
        """Lets a project use a type that is not public. Raises NotFound, BadRequest, Conflict."""

    def remove_type_access(self, context: Context, /, *, type_id: str, project_id: str) -> None:
        """Lets a project no longer use a type. Raises NotFound, BadRequest."""

    def create_qos_specs(self, context: Context, /, *, name: str, consumer: str, specs: dict[str, str]) -> str:
        """Makes qos-specs; returns their id. Raises Conflict."""

    def change_qos_specs(self, context: Context, /, *, qos_specs_id: str, specs: dict[str, str], consumer: str | None) -> None:
        """Adds or changes specs, and the consumer where it is given. Raises NotFound, BadRequest."""

    def delete_qos_spec_keys(self, context: Context, /, *, qos_specs_id: str, keys: Sequence[str]) -> None:
        """Removes specs. Raises NotFound."""

    def delete_qos_specs(self, context: Context, /, *, qos_specs_id: str, force: bool) -> None:
        """Deletes qos-specs, with ``force`` also while volume types have them. Raises NotFound, BadRequest."""

    def associate_qos_specs(self, context: Context, /, *, qos_specs_id: str, type_id: str) -> None:
        """Gives a volume type the qos-specs. Raises NotFound, BadRequest for a type that has others."""

    def disassociate_qos_specs(self, context: Context, /, *, qos_specs_id: str, type_id: str | None) -> None:
        """Takes the qos-specs from one volume type, from all for None. Raises NotFound."""

    def create_type(self, context: Context, /, *, wanted: Document) -> str:
        """Makes a volume type; Returns its id."""

    def update_type(self, context: Context, /, *, type_id: str, changes: Document) -> None:
        """Changes name, description or is_public of a type. Raises NotFound, Conflict."""

    def delete_type(self, context: Context, /, *, type_id: str) -> None:
        """Deletes a type. Raises NotFound, BadRequest while a volume is of it."""

    def set_type_extra_specs(self, context: Context, /, *, type_id: str, specs: dict[str, str]) -> None:
        """Adds or changes extra specs of a type. Raises NotFound."""

    def delete_type_extra_spec(self, context: Context, /, *, type_id: str, key: str) -> None:
        """Removes one extra spec of a type. Raises NotFound."""

    def create_group_type(self, context: Context, /, *, wanted: Document) -> str:
        """Makes a group type: name, description, is_public, group_specs. Returns its id. Raises Conflict."""

    def update_group_type(self, context: Context, /, *, type_id: str, changes: Document) -> None:
        """Changes name, description or is_public of a group type. Raises NotFound, Conflict."""

    def delete_group_type(self, context: Context, /, *, type_id: str) -> None:
        """Deletes a group type. Raises NotFound, BadRequest while a group is of it."""

    def set_group_specs(self, context: Context, /, *, type_id: str, specs: dict[str, str]) -> None:
        """Adds or changes group specs of a type. Raises NotFound."""

    def delete_group_spec(self, context: Context, /, *, type_id: str, key: str) -> None:
        """Removes one group spec of a type. Raises NotFound."""

    def create_group(self, context: Context, /, *, wanted: Document) -> str:
        """Makes a group without volumes; returns its id. Raises NotFound, QuotaExceeded."""

    def create_group_from_source(self, context: Context, /, *, wanted: Document) -> str:
        """Makes a group with copies of the volumes of ``source_group_id``, or of what ``group_snapshot_id`` holds. Returns its
        id. Raises NotFound, BadRequest, Conflict, QuotaExceeded."""

    def update_group(self, context: Context, /, *, group_id: str, changes: Document) -> None:
        """Changes name and description of a group, and adds (``add_volumes``) and removes (``remove_volumes``) volumes: all of
        it or nothing. Raises NotFound, BadRequest."""

    def delete_group(self, context: Context, /, *, group_id: str, delete_volumes: bool) -> None:
        """Deletes a group, and with ``delete_volumes`` begins the deletion of its volumes. Raises NotFound, BadRequest."""

    def reset_group_status(self, context: Context, /, *, group_id: str, status: str) -> None:
        """An administrator corrects the status of a group. Raises NotFound."""

    def create_group_snapshot(self, context: Context, /, *, group_id: str, name: str | None, description: str | None) -> str:
        """Takes snapshots of all volumes of a group in one operation; returns the id of the group snapshot. Raises NotFound,
        BadRequest for a group whose volumes are not all detached."""

    def delete_group_snapshot(self, context: Context, /, *, group_snapshot_id: str) -> None:
        """Begins the deletion of the snapshots that a group snapshot is made of. Raises NotFound, BadRequest, Conflict."""

    def reset_group_snapshot_status(self, context: Context, /, *, group_snapshot_id: str, status: str) -> None:
        """An administrator corrects the status of a group snapshot. Raises NotFound."""

    def list_pools(self, context: Context, /) -> list[Document]:
        """Returns every share of every backend with its capacity in GiB; one that does not answer is "down"."""

    def update_volume(self, context: Context, /, *, volume_id: str, changes: Document) -> None:
        """Changes name, description or metadata."""

    def set_volume_metadata(
        self, context: Context, /, *, volume_id: str, metadata: dict[str, str], replace: bool
    ) -> dict[str, str]:
        """Adds or changes keys, or with ``replace`` sets all of them; returns the metadata as it is now. Raises NotFound."""

    def delete_volume_metadata_key(self, context: Context, /, *, volume_id: str, key: str) -> None:
        """Removes one key of a volume's metadata. Raises NotFound."""

    def set_volume_bootable(self, context: Context, /, *, volume_id: str, bootable: bool) -> None:
        """Says whether a server may start from the volume. Raises NotFound."""

    def set_volume_image_metadata(self, context: Context, /, *, volume_id: str, metadata: dict[str, str]) -> dict[str, str]:
        """Adds or changes keys of the image's metadata; returns all of it. Raises NotFound."""

    def unset_volume_image_metadata(self, context: Context, /, *, volume_id: str, key: str) -> None:
        """Removes one key of the image's metadata. Raises NotFound."""

    def delete_volume(self, context: Context, /, *, volume_id: str, cascade: bool = False, force: bool = False) -> None:
        """Deletes a volume that nothing is attached to. Raises BadRequest, Conflict listing what depends on it."""

    def extend_volume(self, context: Context, /, *, volume_id: str, new_size: int) -> None:
        """Grows a volume to ``new_size`` GiB; one that is attached grows under its server, which sees it at once."""

    def revert_volume(self, context: Context, /, *, volume_id: str, snapshot_id: str, newer: str | None) -> None:
        """Reverts the volume to a snapshot: its writes start anew from there."""

    def undo_revert(self, context: Context, /, *, volume_id: str) -> None:
        """Undoes the last revert, as long as nothing was written since. Raises Conflict when there is nothing to undo."""

    def reset_volume_status(self, context: Context, /, *, volume_id: str, status: str) -> None:
        """``os-reset_status``: an administrator corrects a status."""

    def unmanage_volume(self, context: Context, /, *, volume_id: str) -> None:
        """Unmanages a volume: its file stays on the share under another name, the row is deleted."""

    def set_quotas(self, context: Context, /, *, project_id: str, wanted: dict[str, int]) -> None:
        """Sets limits of a project, by resource; -1 means none."""

    def clear_quotas(self, context: Context, /, *, project_id: str) -> None:
        """Deletes the limits of a project, which has the default ones then."""

    def create_volume(self, context: Context, /, *, wanted: Document) -> str:
        """Creates a volume: empty, from ``snapshot_id`` or from ``source_volid``. Returns its id. Raises BadRequest, NotFound,
        Conflict, QuotaExceeded, ShareUnavailable; nothing is changed then."""


def worker(call: Call) -> VolumesWorker:
    """Returns the worker as a request's handler asks it. Raises ServiceUnavailable when it does not answer."""
    return cast("VolumesWorker", Proxy(call.api.bus))

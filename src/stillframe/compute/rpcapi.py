"""What compute's API may ask its worker: every method with its parameters and its answer, all of them JSON documents.

``Manager`` answers them (mypy sees that it has each of them as it is written here), and ``worker`` asks them, in the same
process or over the worker's socket.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from stillframe.context import Context
from stillframe.rpc.bus import Proxy
from stillframe.web.route import Call

Document = dict[str, Any]


class ComputeWorker(Protocol):
    """The worker, asked as a user: what the user may not see or do is refused as if it were asked for over REST."""

    def look_at_disks(self, context: Context, /, *, server_id: str, targets: Sequence[str] | None) -> Document:
        """Returns what would become of each disk of a server: ``{"server_id", "disks", "operation"}``; the last adoption or
        release is ``operation``. Raises NotFound, BadRequest."""

    def adopt_disks(self, context: Context, /, *, server_id: str, targets: Sequence[str] | None) -> Document:
        """Begins to make volumes of disks; returns ``{"server_id", "operation_id", "disks"}``. Raises NotFound, BadRequest,
        Conflict, Busy."""

    def release_disks(self, context: Context, /, *, server_id: str, wanted: Document) -> Document:
        """Begins to let all adopted disks of a server be plain files again; returns ``{"server_id", "operation_id",
        "volume_ids", "files"}``. Raises NotFound, BadRequest, Conflict, Busy."""

    def attach_volume(self, context: Context, /, *, server_id: str, volume_id: str, device: str | None) -> Document:
        """Starts to attach a volume, after what attaches and detaches at the server now; returns its device name. Raises
        NotFound, BadRequest, Conflict."""

    def detach_volume(self, context: Context, /, *, server_id: str, volume_id: str) -> None:
        """Starts to detach a volume, after what attaches and detaches at the server now; one that no description of the server
        has any more is only released. Raises NotFound, Conflict."""

    def list_attached(self, context: Context, /, *, server_id: str) -> list[Document]:
        """Returns what libvirt shows, with block storage's attachment ids; then what only block storage calls attached."""

    def change_assisted_snapshot(self, context: Context, /, *, set_id: str, changes: Document) -> None:
        """Changes what is named; Raises NotFound, and Conflict for a set that is being deleted."""

    def reset_assisted_snapshot_status(self, context: Context, /, *, set_id: str, status: str) -> None:
        """``os-reset_status``: an administrator corrects a status. Raises NotFound, Conflict naming those
        that are not, Busy."""

    def server_of_volume(self, context: Context, /, *, volume_id: str) -> Document | None:
        """Returns ``{"id", "active", "file", "state", "refusal", "merge_bandwidth_mib", "set_id"}`` of the server whose
        descriptions name the volume, or None. Raises Conflict when that lasts."""

    def merge_volume(self, context: Context, /, *, snapshot_id: str, delete_info: Document) -> str:
        """Nova's call: ``file_to_merge`` goes down into ``merge_target_file``; without a target what lies above
        ``file_to_merge`` (None: everything) is pulled into the active file. Returns the operation's id."""

    def merge_status(self, context: Context, /, *, operation_id: str) -> Document:
        """Returns ``{"id", "status", "bytes_done", "bytes_total", "fault"}``; status is running, done, cancelled, error or
        parked. Raises NotFound."""

    def cancel_merge(self, context: Context, /, *, operation_id: str) -> None:
        """Cancels a merge; one that waits for its turn ends at once. Raises NotFound, Conflict when it has ended."""

    def resize_disk(self, context: Context, /, *, volume_id: str, size: int) -> None:
        """Grows the active file of an attached volume to ``size`` bytes, and what a running guest sees."""

    def switch_disk_file(self, context: Context, /, *, volume_id: str, wanted: Mapping[str, Any]) -> None:
        """Lets the definition of a stopped server name another active file of the volume: ``{"name", "format", "to_come"}``.
        Raises Conflict for a server that runs, or was started meanwhile: the definition names what it has open then."""

    def create_snapshot_policy(self, context: Context, /, *, server_id: str, wanted: Document) -> str:
        """Stores a policy; returns its id. Raises NotFound, BadRequest, QuotaExceeded, ServiceUnavailable."""

    def change_snapshot_policy(self, context: Context, /, *, policy_id: str, changes: Document) -> None:
        """Changes what is named; a changed schedule counts from now. Raises NotFound, BadRequest, ServiceUnavailable."""

    def delete_snapshot_policy(self, context: Context, /, *, policy_id: str) -> None:
        """Deletes a policy. Raises NotFound."""

    def list_servers(self, context: Context, /, *, all_projects: bool) -> list[Document]:
        """Returns the servers as documents for the API. Raises HypervisorUnavailable."""

    def show_server(self, context: Context, /, *, server_id: str) -> Document:
        """Returns one server as a document for the API. Raises NotFound, HypervisorUnavailable."""

    def power(self, context: Context, /, *, server_id: str, action: str) -> None:
        """Changes the power state. Raises Conflict in a state that does not allow it, or while an operation
        holds the server."""

    def show_server_settings(self, context: Context, /, *, server_id: str) -> Document:
        """Returns what was set for the server, null where nothing was, and the server's canonical id. Raises NotFound."""

    def change_server_settings(self, context: Context, /, *, server_id: str, changes: Document) -> Document:
        """Changes what is named; null takes a setting back. Returns the settings as they are now. Raises NotFound."""

    def explain_assisted_snapshot(self, context: Context, /, *, server_id: str, set_id: str) -> Document:
        """Returns ``{"possible", "method", "bytes", "seconds", "why", "dependants", "volumes"}``; Raises NotFound."""

    def create_assisted_snapshot(self, context: Context, /, *, server_id: str, wanted: Document) -> str:
        """Plans an assisted snapshot and starts it; returns the set's id."""

    def delete_assisted_snapshot(
        self, context: Context, /, *, server_id: str, set_id: str, policy_id: str | None = None
    ) -> None:
        """Starts to delete every snapshot of a set; under a running server they are merged live. Raises Conflict."""

    def create_assisted_volume_snapshot(self, context: Context, /, *, volume_id: str, create_info: dict[str, str]) -> None:
        """Nova's call: switches one volume's disk to an overlay that block storage has made."""

    def users_of_volume(self, context: Context, /, *, volume_id: str) -> list[dict[str, str]]:
        """Returns ``{"server_id", "name", "where"}`` for each description in which a file of the volume stands anywhere: as a
        disk's source, a backing file. Raises HypervisorUnavailable when that is not known."""

    def named_files(self, context: Context, /, *, directory: str, sure: bool = False) -> dict[str, list[str]]:
        """Returns the ids of the servers whose descriptions name a file of ``directory``, an absolute path,
        by the file's name."""


def worker(call: Call) -> ComputeWorker:
    """Returns the worker as a request's handler asks it. Raises ServiceUnavailable when it does not answer."""
    return cast("ComputeWorker", Proxy(call.api.bus))

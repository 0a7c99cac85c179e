"""A set whose id its client chose: the same request again is the same set (I9), any other request under that id is refused."""

from collections.abc import Mapping
from typing import Any

from stillframe.chain import names
from stillframe.compute.operations.snapshot_intents import AssistedSnapshot, AwaitServer, SetRequest
from stillframe.compute.worker.context import WorkerContext
from stillframe.context import Context
from stillframe.db import assisted_snapshots, operations
from stillframe.db.rows import OperationRow
from stillframe.errors import IdInUse
from stillframe.journal.operation import intent_of

_INTENTS: Mapping[str, type[AssistedSnapshot | AwaitServer]] = {
    "assisted_snapshot": AssistedSnapshot,
    "await_server": AwaitServer,
}
_OURS = ("set_id", "policy_id")  # parts of ``wanted`` that are no part of the request's body


def asked(context: Context, server_id: str, wanted: Mapping[str, Any]) -> SetRequest:
    """Returns the request as it is recorded and compared."""
    body = {key: value for key, value in wanted.items() if key not in _OURS}
    return SetRequest(project_id=context.project_id, server_id=names.lookup_id(server_id), body=body)


def recorded(operation: OperationRow) -> SetRequest | None:
    """Returns the request that an operation's row records; None for a policy's set, and for any other kind of operation. Raises
    Conflict when another release stored it in a way that this one does not know."""
    kind = _INTENTS.get(operation["kind"])
    return intent_of(operation, kind).asked if kind is not None else None


def is_known(worker: WorkerContext, context: Context, server_id: str, wanted: Mapping[str, Any]) -> bool:
    """Tells whether this very request was accepted before. Raises IdInUse when the id is that of anything else.

    Nothing is said about what another project has under the id. The operation that made a set outlives the set, so that an id
    is known after the set was deleted.
    """
    set_id = wanted.get("set_id")
    if set_id is None:
        return False
    with worker.database.read() as connection:
        operation = operations.get(connection, set_id)
        row = assisted_snapshots.get(connection, set_id, None)
    if operation is None and row is None:
        return False
    known = recorded(operation) if operation is not None else None
    if known is None or known.project_id != context.project_id:
        raise IdInUse(f"the id {set_id} is in use")
    if known != asked(context, server_id, wanted):
        raise IdInUse(f"the id {set_id} was used before, by a request that was not the same")
    if row is None:
        raise IdInUse(f"the set {set_id} was made by this request and has been deleted since")
    return True

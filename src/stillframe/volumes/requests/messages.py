"""Requests about messages, and how one comes to be: why something that was accepted could not be done."""

import uuid
from datetime import timedelta

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.context import Context
from stillframe.db import messages
from stillframe.db.rows import VolumeRow
from stillframe.db.tables import now
from stillframe.errors import NotFound
from stillframe.volumes.worker.context import WorkerContext

KEPT = timedelta(days=30)  # as long as Cinder keeps them
UNABLE_TO_ALLOCATE = "VOLUME_VOLUME_001_003"  # Cinder's event of a volume that no backend can take


def note(connection: Connection, context: Context, row: VolumeRow, text: str) -> None:
    """Records why a volume could not be made, for its project. Those that expired are deleted on the way."""
    moment = now()
    messages.prune(connection, moment)
    messages.insert(
        connection,
        {
            "id": str(uuid.uuid4()),
            "project_id": row["project_id"],
            "request_id": context.request_id,
            "resource_type": "VOLUME",
            "resource_uuid": row["id"],
            "event_id": UNABLE_TO_ALLOCATE,
            "text": text,
            "expires_at": moment + KEPT,
        },
    )


def delete(worker: WorkerContext, context: Context, message_id: str) -> None:
    """Deletes a message. Raises NotFound."""
    with worker.database.write() as connection:
        project = None if context.sees_all_projects else context.project_id
        row = messages.get(connection, names.lookup_id(message_id), project)
        if row is None:
            raise NotFound(f"Message {message_id} could not be found.")
        messages.delete(connection, row["id"])

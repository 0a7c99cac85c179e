"""What makes a backup known again where its row is lost: the record a client keeps, and what of one is believed.

The shape is Cinder's: ``backup_service`` says what kind of store wrote it, ``backup_url`` is a JSON object in base64.
Pure functions. A record tells where a backup lies and so opens it to whoever may import it: the policy must leave that to
administrators. Everything else it says is for lists; what is restored is what the manifest in the store says.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from stillframe import documents
from stillframe.documents import Shape
from stillframe.errors import BadRequest
from stillframe.volumes.backups import keys

# Clients look for this beginning, Tempest among them.
SERVICE = "cinder.backup.drivers.stillframe"
_VERSION = 1
_MOST_CHARACTERS = 1 << 20
_NUMBER = documents.number(0, 1 << 62)
_TIME = {"type": "string", "pattern": f"^{documents.TIME}\\Z"}
_SHAPE = Shape(
    documents.record(
        {
            "version": {"type": "integer", "const": _VERSION},
            "id": documents.ID,
            "stored_id": documents.ID,
            "volume_id": documents.ID,
            "parent_id": documents.optional(documents.ID),
            "container": {"type": "string"},
            "name": documents.optional(documents.text(255)),
            "description": documents.optional(documents.text(4096)),
            "size": _NUMBER,
            "object_count": _NUMBER,
            "bytes": _NUMBER,
            "metadata": documents.texts(1024, 255),
            "data_timestamp": _TIME,
            "created_at": _TIME,
        }
    )
)


@dataclass(frozen=True)
class Record:
    """One backup's row. ``size`` is in GiB, ``bytes`` what its objects weigh, times are naive UTC.

    ``id`` is the name the backup is imported under. ``stored_id`` is the one its objects carry in the store: a client may
    change the first to import a backup beside itself, as Tempest does. ``parent_id`` is the row it builds on.
    """

    id: str
    stored_id: str
    volume_id: str
    parent_id: str | None
    container: str
    name: str | None
    description: str | None
    size: int
    object_count: int
    bytes: int
    metadata: Mapping[str, str]
    data_timestamp: datetime
    created_at: datetime


def export_record(row: Mapping[str, Any]) -> dict[str, str]:
    """Returns ``{"backup_service", "backup_url"}`` of a row with the fields of ``Record``; without a ``stored_id`` it is
    the row's own id. Raises BadRequest for a row that ``import_record`` would refuse."""
    names = [name for name in Record.__dataclass_fields__ if name != "stored_id"]
    record = Record(stored_id=row.get("stored_id") or row["id"], **{name: row[name] for name in names})
    document = asdict(record)
    for name in ("data_timestamp", "created_at"):
        document[name] = document[name].isoformat(timespec="microseconds")
    text = json.dumps({"version": _VERSION, **document}, sort_keys=True)
    exported = {"backup_service": SERVICE, "backup_url": base64.b64encode(text.encode()).decode()}
    import_record(**exported)
    return exported


def import_record(backup_service: str, backup_url: str) -> Record:
    """Returns what an exported record says. Raises BadRequest for anything ``export_record`` would not have written."""
    if backup_service != SERVICE:
        raise BadRequest(f"the backup service {backup_service!r:.120} is not {SERVICE}, the only one that can be imported")
    document = _decode(backup_url)
    flaw = _SHAPE.flaw(document)
    if flaw is not None:
        raise BadRequest(f"the backup record is not one that was exported: {flaw}")
    del document["version"]
    keys.check_container(document["container"])
    document |= {name: _time(document[name], name) for name in ("data_timestamp", "created_at")}
    return Record(**document)


def _decode(text: str) -> Any:
    if not isinstance(text, str) or len(text) > _MOST_CHARACTERS:
        raise BadRequest(f"the backup record is not a text of at most {_MOST_CHARACTERS} characters")
    try:
        return json.loads(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise BadRequest("the backup record is no JSON in base64") from None


def _time(text: str, what: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"the {what} in the backup record is not a time") from None

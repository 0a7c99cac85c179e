"""A backup's manifest: which objects it has, what they weigh and hash to, and what it was made of. Pure values.

The manifest is written last, so a backup that has one is whole. It carries a sha256 of its own content. A manifest that is
read is hostile input: it may come from a tenant's record or from a share somebody else can write to.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from stillframe import documents
from stillframe.documents import Shape
from stillframe.errors import BadBackup
from stillframe.volumes.backups import keys
from stillframe.volumes.backups.stream import Written

VERSION = 1
MOST_BYTES = 4 << 20  # of a manifest; its metadata can need most of it
_BYTES = documents.number(1, 1 << 56)
_OBJECT = documents.record(
    {"name": {"type": "string"}, "bytes": _BYTES, "sha256": {"type": "string", "pattern": r"^[0-9a-f]{64}\Z"}}
)
_VOLUME = {
    "name": documents.optional(documents.text(255)),
    "description": documents.optional(documents.text(4096)),
    "metadata": documents.texts(1024, 255),
}
_SHAPE = Shape(
    documents.record(
        {
            "version": {"type": "integer", "const": VERSION},
            "backup_id": documents.ID,
            "volume_id": documents.ID,
            "parent_id": documents.optional(documents.ID),
            "created_at": {"type": "string", "pattern": f"^{documents.TIME}Z\\Z"},
            "size": _BYTES,
            "volume": documents.record(_VOLUME),
            "objects": {"type": "array", "minItems": 1, "maxItems": keys.MAX_LAYERS, "items": _OBJECT},
        }
    )
)


@dataclass(frozen=True)
class StoredObject:
    """One file of a backup: its plain name, bytes, and sha256 in hexadecimal."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """What the backup was made of, for people and for a volume made from it."""

    name: str | None
    description: str | None
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """``size`` is the virtual size in bytes; ``created_at`` naive UTC; ``objects`` in the order of the chain.

    ``parent_id`` is the backup this one holds the changes since, None for a full one.
    """

    backup_id: str
    volume_id: str
    parent_id: str | None
    created_at: datetime
    size: int
    source: Source
    objects: tuple[StoredObject, ...]

    @property
    def top(self) -> str:
        """The name of the file that reads as the backup."""
        return keys.top_name(self.backup_id)


def serialise(manifest: Manifest) -> bytes:
    """Returns the text to store. Raises BadBackup for a manifest that ``parse`` would refuse: better now than later."""
    content = {
        "version": VERSION,
        "backup_id": manifest.backup_id,
        "volume_id": manifest.volume_id,
        "parent_id": manifest.parent_id,
        "created_at": manifest.created_at.isoformat(timespec="microseconds") + "Z",
        "size": manifest.size,
        "volume": {
            "name": manifest.source.name,
            "description": manifest.source.description,
            "metadata": dict(manifest.source.metadata),
        },
        "objects": [{"name": each.name, "bytes": each.bytes, "sha256": each.sha256} for each in manifest.objects],
    }
    text = json.dumps({**content, "sha256": _own_sum(content)}, indent=1).encode()
    parse(text, manifest.volume_id, manifest.backup_id)
    return text


def parse(text: bytes, volume_id: str, backup_id: str) -> Manifest:
    """Returns the manifest that should be this backup's. Raises BadBackup naming it when anything is not as it must be."""
    key = keys.manifest_key(volume_id, backup_id)
    try:
        document = _load(text)
        found = _read(document)
    except _Flaw as flaw:
        raise BadBackup(f"the manifest {key} is damaged or not a manifest: {flaw}") from None
    if (found.volume_id, found.backup_id) != (volume_id, backup_id):
        raise BadBackup(f"the manifest {key} is another backup's")
    return found


def verify(manifest: Manifest, name: str, written: Written) -> None:
    """Compares what was read of an object with the manifest. Raises BadBackup naming the object."""
    expected = next(each for each in manifest.objects if each.name == name)
    key = keys.object_key(manifest.volume_id, name)
    if written.bytes != expected.bytes:
        raise BadBackup(f"{key} has {written.bytes} bytes, its manifest says {expected.bytes}: it is cut off or was replaced")
    if written.sha256 != expected.sha256:
        raise BadBackup(f"{key} does not have the sha256 its manifest says: its content has changed since it was written")


class _Flaw(Exception):
    """What is wrong with a text; never leaves this module."""


def _own_sum(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _load(text: bytes) -> dict[str, Any]:
    if len(text) > MOST_BYTES:
        raise _Flaw(f"it has more than {MOST_BYTES} bytes")
    try:
        content = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        stated = content.pop("sha256", None) if isinstance(content, dict) else None
        own = _own_sum(content)
    except (ValueError, RecursionError):
        raise _Flaw("it is no JSON") from None
    if not isinstance(content, dict):
        raise _Flaw("it is no JSON object")
    if stated != own:
        raise _Flaw("its own sha256 does not fit its content")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Flaw("a name occurs twice in it")
    return found


def _refuse_constant(word: str) -> None:
    raise _Flaw(f"it holds {word}")


def _read(document: dict[str, Any]) -> Manifest:
    if type(document.get("version")) is int and document["version"] != VERSION:
        raise _Flaw(f"its version is {document['version']!r:.40}, this program reads version {VERSION}")
    flaw = _SHAPE.flaw(document)
    if flaw is not None:
        raise _Flaw(flaw)
    backup_id, parent_id = document["backup_id"], document["parent_id"]
    if parent_id == backup_id:
        raise _Flaw("it names itself as its parent")
    stored = tuple(StoredObject(**each) for each in document["objects"])
    if parent_id is None and len(stored) > 1:
        raise _Flaw("it has more objects than one without a parent can have")
    if tuple(each.name for each in stored) != keys.layer_names(backup_id, len(stored)):
        raise _Flaw("its objects do not have the names that those of this backup have")
    source, time = Source(**document["volume"]), _time(document["created_at"])
    return Manifest(backup_id, document["volume_id"], parent_id, time, document["size"], source, stored)


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=None)
    except ValueError:
        raise _Flaw("its created_at is not a time") from None

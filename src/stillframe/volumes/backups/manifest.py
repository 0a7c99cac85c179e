"""A backup's manifest: which objects it has, what they weigh and hash to, and what it was made of. Pure values.

The manifest is written last, so a backup that has one is whole. It carries a sha256 of its own content. A manifest that is
read is hostile input: it may come from a tenant's record or from a share somebody else can write to.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from stillframe.errors import BadBackup
from stillframe.volumes.backups import keys
from stillframe.volumes.backups.stream import Written

VERSION = 1
MOST_BYTES = 4 << 20  # of a manifest; its metadata can need most of it
_MOST_METADATA = 1024
_MOST_TEXT = 255  # characters of a name, and of a metadata key or value
_MOST_DESCRIPTION = 4096
_MOST_SIZE = 1 << 56
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")


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


def _read(document: Any) -> Manifest:
    names = ("version", "backup_id", "volume_id", "parent_id", "created_at", "size", "volume", "objects")
    version, backup_id, volume_id, parent_id, created_at, size, volume, objects = _fields(document, "it", names)
    if type(version) is not int or version != VERSION:
        raise _Flaw(f"its version is {version!r:.40}, this program reads version {VERSION}")
    for what, id_ in (("backup_id", backup_id), ("volume_id", volume_id), ("parent_id", parent_id)):
        if not keys.is_id(id_) and not (what == "parent_id" and id_ is None):
            raise _Flaw(f"its {what} is no id")
    if parent_id == backup_id:
        raise _Flaw("it names itself as its parent")
    stored = _objects(objects, backup_id, parent_id)
    return Manifest(backup_id, volume_id, parent_id, _time(created_at), _number(size, "size"), _source(volume), stored)


def _objects(found: Any, backup_id: str, parent_id: str | None) -> tuple[StoredObject, ...]:
    if not isinstance(found, list) or not 1 <= len(found) <= (1 if parent_id is None else keys.MAX_LAYERS):
        raise _Flaw("it has no objects, or more than it can have")
    stored = []
    for entry, expected in zip(found, keys.layer_names(backup_id, len(found)), strict=True):
        name, length, sha256 = _fields(entry, "an object", ("name", "bytes", "sha256"))
        if name != expected:
            raise _Flaw(f"an object is named {name!r:.80}, not {expected}")
        if not isinstance(sha256, str) or _SHA256.fullmatch(sha256) is None:
            raise _Flaw(f"the sha256 of {expected} is none")
        stored.append(StoredObject(name, _number(length, f"length of {expected}"), sha256))
    return tuple(stored)


def _source(found: Any) -> Source:
    name, description, metadata = _fields(found, "its volume", ("name", "description", "metadata"))
    if not isinstance(metadata, dict) or len(metadata) > _MOST_METADATA:
        raise _Flaw("its metadata is no object of texts, or too large")
    for key, value in metadata.items():
        _text(key, _MOST_TEXT)
        _text(value, _MOST_TEXT)
    for text, most in ((name, _MOST_TEXT), (description, _MOST_DESCRIPTION)):
        if text is not None:
            _text(text, most)
    return Source(name, description, metadata)


def _fields(found: Any, what: str, names: tuple[str, ...]) -> tuple[Any, ...]:
    """Returns the values of exactly these names."""
    if not isinstance(found, dict) or set(found) != set(names):
        raise _Flaw(f"{what} does not have the fields {', '.join(names)}")
    return tuple(found[name] for name in names)


def _text(found: Any, most: int) -> None:
    if not keys.is_text(found, most):
        raise _Flaw(f"a text in it is longer than {most} characters or no text")


def _number(found: Any, what: str) -> int:
    if type(found) is not int or not 0 < found <= _MOST_SIZE:  # True is an int too
        raise _Flaw(f"its {what} is no number of bytes")
    return found


def _time(found: Any) -> datetime:
    if not isinstance(found, str) or _TIME.fullmatch(found) is None:
        raise _Flaw("its created_at is not a time")
    try:
        return datetime.fromisoformat(found).astimezone(UTC).replace(tzinfo=None)
    except ValueError:
        raise _Flaw("its created_at is not a time") from None

"""File names on a share, as OpenStack's file drivers use them. Names are made only from UUIDs, and checked before use (I1)."""

import re
import uuid

from stillframe.errors import BadImage, BadRequest

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_TEMPORARY = re.compile(rf"\.tmp\.{_UUID}\.[A-Za-z0-9._-]+")
_TRASH = re.compile(rf"\.trash\.(?:volume-{_UUID}(?:\.{_UUID}|\.info|\.record)?|{_TEMPORARY.pattern})")
_CHAIN_FILE = re.compile(rf"volume-(?P<volume>{_UUID})(?:\.(?P<snapshot>{_UUID}))?")


def canonical_id(text: object, what: str = "id") -> str:
    """Returns ``text`` as a lower-case UUID with dashes; raises BadRequest when it is none."""
    if isinstance(text, str) and len(text) in (32, 36):
        try:
            return str(uuid.UUID(text))
        except ValueError:
            pass
    raise BadRequest(f"the {what} {_shown(text)} is not a UUID")


def lookup_id(text: str) -> str:
    """The form in which an id from a path is looked up: canonical, or as it is where it is none and nothing can have it."""
    try:
        return canonical_id(text)
    except BadRequest:
        return text[:64]


def _shown(text: object) -> str:
    return repr(text)[:80]


def base_name(volume_id: str, recorded: str | None = None) -> str:
    """The volume's lowest file: ``recorded`` for one that was adopted under a name of its own."""
    return recorded or f"volume-{volume_id}"


def overlay_name(volume_id: str, snapshot_id: str) -> str:
    """The file that receives the writes made *after* the snapshot."""
    return f"volume-{volume_id}.{snapshot_id}"


def info_name(volume_id: str) -> str:
    return f"volume-{volume_id}.info"


def record_name(volume_id: str) -> str:
    """The file beside the volume that has what the database knows of it and its snapshots: enough to rebuild the rows."""
    return f"volume-{volume_id}.record"


def temporary_name(volume_id: str, suffix: str) -> str:
    """A name nothing refers to, for a file that is not published yet."""
    return f".tmp.{volume_id}.{suffix}"


def trash_name(name: str) -> str:
    return f".trash.{name}"


def is_trash(name: str) -> bool:
    """Tells whether the name is one that only ``trash_name`` makes, of a file of ours."""
    return _TRASH.fullmatch(name) is not None


def is_ours_apart(name: str) -> bool:
    """Tells whether the name is one of trash, or of a file that is not published yet: nobody reads a volume through those."""
    return is_trash(name) or _TEMPORARY.fullmatch(name) is not None


def is_reserved(name: str) -> bool:
    """Tells whether a file of this name is one that we make on a share: no disk that was there before has such a name."""
    of_volume = parse(name.removesuffix(".info").removesuffix(".record"))
    return of_volume is not None or is_ours_apart(name) or name.startswith((".share-id", ".stillframe"))


def parse(name: str) -> tuple[str, str | None] | None:
    """Returns (volume id, snapshot id or None) of a chain file's name, or None for any other name."""
    match = _CHAIN_FILE.fullmatch(name)
    return (match["volume"], match["snapshot"]) if match else None


def is_base(name: str) -> bool:
    """Tells whether a chain file has a volume's own name."""
    parsed = parse(name)
    return parsed is not None and parsed[1] is None


def check_belongs(name: str, volume_id: str, base: str | None = None) -> str:
    """Returns ``name`` if it is a plain file name of this volume's chain; raises BadImage otherwise (I1, R8). ``base`` is the
    recorded name of the base of a volume that was adopted."""
    parsed = parse(name)
    if name != base and (parsed is None or parsed[0] != volume_id):
        raise BadImage(f"the name {name!r} is not a file of volume {volume_id}")
    return name

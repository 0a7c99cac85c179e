"""The names of a backup's objects in a store. They are made only from ids, and checked before use (I1).

A key is ``volume-<VOLUME>/<name>``. The names of one backup are ``backup-<BACKUP>.qcow2`` and ``backup-<BACKUP>.json``, the
manifest. An incremental one of an older release may have n files, ``backup-<BACKUP>.1.qcow2`` to
``backup-<BACKUP>.<n-1>.qcow2`` and at last ``backup-<BACKUP>.qcow2``: they are read and removed, and no more made.
"""

import re
from typing import NamedTuple

from stillframe.errors import BadBackup, BadRequest

MAX_LAYERS = 200  # as many files as a backing chain may have
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_KEY = re.compile(rf"volume-(?P<volume>{_UUID})/backup-(?P<backup>{_UUID})(?:(?:\.[1-9][0-9]{{0,2}})?\.qcow2|\.json)")
_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Key(NamedTuple):
    """What a key says: whose object it is, and its plain file name."""

    volume_id: str
    backup_id: str
    name: str


def folder(volume_id: str) -> str:
    """What the keys of a volume's backups begin with."""
    return f"volume-{volume_id}/"


def top_name(backup_id: str) -> str:
    """The file that reads as the backup, through those it is backed by."""
    return f"backup-{backup_id}.qcow2"


def layer_names(backup_id: str, layers: int) -> tuple[str, ...]:
    """The files of a backup of ``layers`` files, each backed by the one before it."""
    inner = tuple(f"backup-{backup_id}.{number}.qcow2" for number in range(1, layers))
    return (*inner, top_name(backup_id))


def object_key(volume_id: str, name: str) -> str:
    """The key of a file of a backup of this volume; raises BadBackup for a name no backup has."""
    return check(folder(volume_id) + name)


def manifest_key(volume_id: str, backup_id: str) -> str:
    return object_key(volume_id, f"backup-{backup_id}.json")


def parse(key: str) -> Key | None:
    """Returns what a key says, or None for a text that is no key."""
    match = _KEY.fullmatch(key)
    return Key(match["volume"], match["backup"], key.rpartition("/")[2]) if match else None


def check(key: str) -> str:
    """Returns ``key`` if it is one; raises BadBackup otherwise, so that no name can lead out of the store."""
    if parse(key) is None:
        raise BadBackup(f"{key!r:.120} is not the name of a backup's object")
    return key


def check_container(name: str) -> str:
    """Returns the name of a container, a folder of a store; raises BadRequest for what is none."""
    if not isinstance(name, str) or _CONTAINER.fullmatch(name) is None:
        raise BadRequest(
            f"the container {name!r:.120} is not usable: 1 to 63 letters, digits, '.', '_' and '-', the first a letter or digit"
        )
    return name

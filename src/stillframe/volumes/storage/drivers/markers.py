"""The marker of a share: a file that says which share a directory is, and which deployment of Stillframe owns it."""

import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from stillframe.errors import BadImage, ForeignShare
from stillframe.host import files, probe, workdir

MARKER = probe.MARKER
_PUBLISHING_LOOKS = 50


def refuse_foreign(path: Path, marker: object, deployment: str) -> None:
    """Raises ForeignShare when the marker names another deployment than ours."""
    owner = marker.get("deployment") if isinstance(marker, dict) else None
    if owner is not None and owner != deployment:
        raise ForeignShare(
            f"the share {path} belongs to deployment {owner!s:.64} of Stillframe, and this is {deployment}: two that change the"
            " same volumes would destroy them",
            deployment=str(owner)[:64],
        )


def claim(path: Path, deployment: str, taken_from: str | None = None, mode: int = 0o660) -> str:
    """Makes the share ours: its marker, which is made on first use with ``mode``, names ``deployment`` afterwards. One that
    names another one is taken over only with that one's id as ``taken_from``. Returns the share's id. Raises ShareUnavailable,
    ForeignShare."""
    share_id = prepare(path, deployment, mode)
    with files.share_errors(path):
        found = _marker(path)
        if taken_from is None or found.get("deployment") != taken_from:
            refuse_foreign(path, found, deployment)
        if found.get("deployment") != deployment:
            with suppress(FileNotFoundError):  # another process of ours did the same at that moment
                files.write_json(path, MARKER, {**found, "deployment": deployment})
            refuse_foreign(path, _marker(path), deployment)
    return share_id


def unclaim(path: Path) -> None:
    """Takes back what ``claim`` made: the directory is no share any more. The marker goes last, because it says that the rest
    is ours. May be repeated. Raises ShareUnavailable."""
    with files.share_errors(path):
        workdir.remove(path)
        files.unlink(path, MARKER)


def is_unclaimed(path: Path, share_id: str) -> bool:
    """Tells whether the marker is that of the share and names no deployment."""
    found = marker_of(path)
    return isinstance(found, dict) and found.get("share_id") == share_id and found.get("deployment") is None


def marker_of(path: Path) -> Any:
    """Returns what the marker of a directory says; None where there is no directory or no marker that can be read."""
    with suppress(OSError, ValueError, RecursionError, BadImage):
        return files.read_json(path, MARKER)
    return None


def prepare(path: Path, deployment: str | None = None, mode: int = 0o660) -> str:
    """Makes the marker of a share on first use, for ``deployment`` if it is given; returns the share's id, the same to all who
    do it at once. Raises ShareUnavailable."""
    with files.share_errors(path):
        found = _marker(path)
        if found is None:
            made = {"share_id": str(uuid.uuid4())} | ({"deployment": deployment} if deployment else {})
            temporary = f".tmp.{made['share_id']}"
            with workdir.working(path) as place:
                files.write_json(place, temporary, made, mode)
                try:
                    files.publish(path, temporary, MARKER)
                except FileExistsError:
                    files.unlink(place, temporary)
            found = _marker(path)
    return str(found["share_id"])


def _marker(path: Path) -> Any:
    """The marker has two names for the moment in which another process publishes it, and would be refused for that."""
    for _ in range(_PUBLISHING_LOOKS):
        with suppress(BadImage):
            return files.read_json(path, MARKER)
        time.sleep(0.02)
    return files.read_json(path, MARKER)

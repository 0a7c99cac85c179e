"""What an operation is about, for code that works with operations of every kind and of every release."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """The backup that is made, restored or deleted; ``stored_id`` is its id in the store."""

    id: str
    stored_id: str | None = None


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """One volume of a set: its share on the host of the server, and the overlay that is made."""

    volume_id: str | None = None
    directory: str | None = None
    overlay: str | None = None


class About(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of intents that have one meaning in all kinds, as far as an intent has them; others are left out."""

    volume_id: str | None = None
    server_id: str | None = None
    set_id: str | None = None
    snapshot_id: str | None = None
    snapshot_ids: tuple[str, ...] = ()
    backup: Backup | None = None
    backend: str | None = None
    share: str | None = None
    directory: str | None = None  # a share, as the host of a server has it mounted
    disks: tuple[Disk, ...] = ()
    natives: tuple[Disk, ...] = ()  # volumes of a set that block storage takes the snapshots of


def about(intent: object) -> About:
    """Reads an intent, or what is stored of one. Of what another release stored in another form nothing is known."""
    stored: Mapping[str, Any] = intent if isinstance(intent, Mapping) else msgspec.to_builtins(intent)
    try:
        return msgspec.convert(stored, About)
    except msgspec.ValidationError:
        return About()


def verbs(plan: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the names of the verbs of a plan as it is stored."""
    return [str(step["verb"]) for step in plan]

"""What the intents of all operations on a volume have in common. Executors read it, and know no operation."""

from collections.abc import Mapping
from typing import TypedDict

from stillframe.db.rows import VolumeRow
from stillframe.journal.typed import Intent
from stillframe.volumes.chain.observe import After


class OnVolume(Intent, frozen=True, kw_only=True):
    """An operation on a volume: where its files lie, and what its row said when the plan was made."""

    volume_id: str
    backend: str
    share: str
    format: str  # of the active file
    active_before: str
    status_before: str


class OnChain(OnVolume, frozen=True, kw_only=True):
    """An operation whose plan may change which files the volume consists of: what ``.info`` said, and what the rows become.
    None where the chain stays as it is."""

    info_before: Mapping[str, str] | None = None
    after: After | None = None

    @property
    def holds(self) -> Mapping[str, str]:
        """What files are kept for when the plan is done, as ``Tree`` has it."""
        return self.after.holds if self.after is not None else {}


class ChangeChain(OnChain, frozen=True, kw_only=True):
    """An operation whose plan changes which files the volume consists of; ``snapshot_ids`` are those it is about."""

    info_before: Mapping[str, str]
    after: After
    snapshot_ids: tuple[str, ...] = ()


class AboutVolume(TypedDict):
    """The fields of ``OnVolume``."""

    volume_id: str
    backend: str
    share: str
    format: str
    active_before: str
    status_before: str


def about_volume(volume: VolumeRow) -> AboutVolume:
    """Returns what an intent says of the volume: ``CreateVolume(**about_volume(row))``."""
    return {
        "volume_id": volume["id"],
        "backend": volume["backend"],
        "share": volume["share"],
        "format": volume["format"],
        "active_before": volume["active_file"],
        "status_before": volume["status"],
    }


def snapshots_of(intent: OnVolume) -> tuple[str, ...]:
    """Returns the snapshots that an operation is about; none where its kind is about none."""
    return intent.snapshot_ids if isinstance(intent, ChangeChain) else ()

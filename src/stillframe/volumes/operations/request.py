"""What all requests for an operation on a volume have in common."""

from collections.abc import Sequence
from dataclasses import dataclass

from stillframe.db.rows import VolumeRow
from stillframe.journal.record import Request
from stillframe.journal.typed import Step
from stillframe.volumes.operations.executors.intents import OnVolume


@dataclass(frozen=True)
class Wanted:
    """``also`` are further volumes the operation changes, ``reads`` volumes and ``reads_backup`` a backup it only reads."""

    kind: str
    intent: OnVolume
    plan: Sequence[Step]
    also: Sequence[str] = ()
    reads: Sequence[str] = ()
    reads_backup: str | None = None


def request(volume: VolumeRow, wanted: Wanted, request_id: str) -> Request:
    """Makes the journal's request, as the project's that has the volume."""
    resources = [f"volume:{volume_id}" for volume_id in (volume["id"], *wanted.also)]
    shared = [f"volume:{volume_id}" for volume_id in wanted.reads if f"volume:{volume_id}" not in resources]
    shared += [f"backup:{wanted.reads_backup}"] if wanted.reads_backup else []
    made = Request("volumes", wanted.kind, wanted.intent, wanted.plan, resources, request_id, shared=tuple(shared))
    return made.of(volume["project_id"])

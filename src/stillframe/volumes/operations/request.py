"""What all requests for an operation on a volume have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stillframe.db.rows import Row
from stillframe.journal.operation import Document
from stillframe.journal.record import Request


@dataclass(frozen=True)
class Wanted:
    """``also`` are further volumes the operation changes, ``reads`` volumes and ``reads_backup`` a backup it only reads."""

    kind: str
    plan: Sequence[Document]
    intent: Mapping[str, Any] = field(default_factory=dict)
    also: Sequence[str] = ()
    reads: Sequence[str] = ()
    reads_backup: str | None = None
    id: str | None = None


def request(volume: Row, wanted: Wanted, request_id: str) -> Request:
    """Makes the journal's request; the volume's row gives where its files lie and what it was before."""
    intent = {
        "volume_id": volume["id"],
        "backend": volume["backend"],
        "share": volume["share"],
        "format": volume["format"],
        "active_before": volume["active_file"],
        "status_before": volume["status"],
        **wanted.intent,
    }
    resources = [f"volume:{volume_id}" for volume_id in (volume["id"], *wanted.also)]
    shared = [f"volume:{volume_id}" for volume_id in wanted.reads if f"volume:{volume_id}" not in resources]
    shared += [f"backup:{wanted.reads_backup}"] if wanted.reads_backup else []
    made = Request("volumes", wanted.kind, intent, list(wanted.plan), resources, request_id, wanted.id, tuple(shared))
    return made.of(volume["project_id"])

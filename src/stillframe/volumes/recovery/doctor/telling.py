"""Formats what was found, planned and done, as text for people and as a document for programs. Pure."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from stillframe.volumes.recovery.doctor import leftovers
from stillframe.volumes.recovery.doctor.findings import KINDS, Finding
from stillframe.volumes.recovery.doctor.repairs import Plan
from stillframe.volumes.recovery.doctor.seen import WorkerContext


def text(worker: WorkerContext, findings: Sequence[Finding], width: int) -> str:
    """Returns the findings for people, each with what it means and what to do, and what was not looked at."""
    lines: list[str] = []
    for number, finding in enumerate(findings, 1):
        kind = KINDS[finding.kind]
        lines.append(f"{number}. {finding.kind}")
        for words in (finding.what, kind.means, f"Do: {kind.advice}"):
            lines += _wrapped(words, width)
    lines += [line for trouble in worker.troubles for line in _wrapped(f"Not looked at: {trouble}", width, "")]
    lines += [line for note in _notes(worker) for line in _wrapped(f"Note: {note}", width, "")]
    looked = f"{_count(len(worker.known.volumes), 'volume')}, {_count(len(worker.shares), 'share')}"
    looked += f", {_count(len(worker.guests.servers), 'server')}"
    return "\n".join([*lines, f"{_count(len(findings), 'finding') if findings else 'nothing found'}; looked at {looked}"])


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _wrapped(words: str, width: int, indent: str = "   ") -> list[str]:
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(words, width, initial_indent=indent, subsequent_indent=indent or "  ", **options)


def _notes(worker: WorkerContext) -> Iterator[str]:
    """What is no finding and still worth knowing."""
    if not worker.guests.complete:
        yield f"servers were not looked at: {worker.guests.why}"
    elif worker.guests.why:
        yield worker.guests.why
    under_way = sorted(worker.unsettled & set(worker.known.volumes))
    if under_way:
        yield f"{len(under_way)} volumes were not judged, operations on them are under way; the first is {under_way[0]}"
    for share in worker.shares:
        aside = leftovers.quarantined(share)
        if aside:
            taken = sum(share.entries[name].allocated for name in aside)
            are = "is" if len(aside) == 1 else "are"
            more = "" if len(aside) == 1 else ", the first is"
            yield f"{_count(len(aside), 'orphan')} {are} put aside on {share.export} ({taken} bytes){more}: {aside[0]}"


def plan_text(plan: Plan, width: int) -> str:
    """Returns the plan for people."""
    lines = ["Repairs, in this order:" if plan.repairs else "Nothing can be repaired without you."]
    for number, repair in enumerate(plan.repairs, 1):
        lines += _wrapped(f"{number}. {repair.says}", width)
    for finding, why in plan.refused:
        lines += _wrapped(f"not: {finding.what}: {why}", width)
    return "\n".join(lines)


def document(worker: WorkerContext, findings: Sequence[Finding], plan: Plan | None) -> dict[str, Any]:
    """Returns ``{"findings", "not_looked_at", "not_judged", "put_aside", "servers", "plan", "not_repaired"}``."""
    aside = [
        {"share": share.export, "file": name, "bytes": share.entries[name].allocated}
        for share in worker.shares
        for name in leftovers.quarantined(share)
    ]
    found: dict[str, Any] = {
        "findings": [finding.document() for finding in findings],
        "not_looked_at": list(worker.troubles),
        "not_judged": sorted(worker.unsettled & set(worker.known.volumes)),
        "put_aside": aside,
        "servers": {"looked_at": worker.guests.complete, "note": worker.guests.why},
    }
    if plan is not None:
        found["plan"] = [{"verb": repair.verb, "does": repair.says, "file": repair.finding.file} for repair in plan.repairs]
        found["not_repaired"] = [{"finding": finding.what, "why": why} for finding, why in plan.refused]
    return found

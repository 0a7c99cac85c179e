"""When the disks were switched: not before one moment of the host's clock, and not after another (seconds since the epoch).

The worker takes both around the one libvirt call. If it dies there, its successor has the moment that was recorded before the
window, and the moment at which it saw the disks switched.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from stillframe.journal.operation import Document

DIED = "the worker or libvirt failed around the switch; these are the last recorded moment before it and the first after it"
NOT_RECORDED = "the moment before the switch was not recorded"
SET_BACK = "the host's clock was set back between the moments before and after the switch"


@dataclass(frozen=True)
class Instant:
    """``not_before`` None: it is not known. ``note`` says why it is not known, or not known better."""

    not_before: float | None
    uncertainty_ms: float | None
    note: str | None

    def columns(self) -> Document:
        """What the set's row holds."""
        return {
            "switched_at": _naive(self.not_before) if self.not_before is not None else None,
            "switched_at_uncertainty_ms": self.uncertainty_ms,
            "switched_at_note": self.note,
        }


def around(call: Callable[[], object]) -> Document:
    """Makes the call and returns the moments before and after it; a change of the clock meanwhile does not affect their
    distance."""
    before, began = time.time(), time.monotonic()
    call()
    return {"not_before": before, "not_after": before + time.monotonic() - began}


def known(evidence: Mapping[str, Document]) -> Instant:
    """Returns what an operation's evidence says: the moments around the call, or else the two recorded moments around those."""
    switch = evidence.get("switch", {})
    if "not_before" in switch:
        return Instant(switch["not_before"], _ms(switch["not_before"], switch["not_after"]), None)
    before, after = evidence.get("instant", {}).get("not_before"), switch.get("not_after")
    if before is None or after is None:
        return Instant(None, None, NOT_RECORDED)
    return Instant(before, _ms(before, after), DIED) if after >= before else Instant(None, None, SET_BACK)


def of_snapshots(evidence: Mapping[str, Document]) -> str | None:
    """Returns what the snapshots of all volumes carry as ``created_at`` (ISO, naive UTC); None: nothing was recorded."""
    found = known(evidence).not_before or evidence.get("switch", {}).get("not_after")
    return _naive(found).isoformat(timespec="microseconds") if found is not None else None


def _naive(moment: float) -> datetime:
    return datetime.fromtimestamp(moment, UTC).replace(tzinfo=None)


def _ms(before: float, after: float) -> float:
    return round((after - before) * 1000, 1)

"""What happened in the window, and what may be claimed for the set and for each disk afterwards (I10)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stillframe.compute.quiesce import filesystems
from stillframe.compute.quiesce.filesystems import Disk
from stillframe.printable import escaped

REASON_LENGTH = 1000  # letters; block storage takes 1024, and refuses after the switch what is longer


@dataclass(frozen=True)
class Timings:
    """Seconds of each part of the window. The hooks' are None where they cannot be told apart: then the freeze's time holds the
    hooks before it, and the thaw's those after it."""

    hooks_before: float | None
    freeze: float
    switch: float
    thaw: float
    hooks_after: float | None

    @property
    def frozen_ms(self) -> float:
        """The longest pause that writers in the guest can have seen, as far as the host knows."""
        return round((self.freeze + self.switch + self.thaw) * 1000, 1)

    def document(self) -> dict[str, float | None]:
        """As the API shows them: milliseconds, null for a part that did not happen."""
        return {f"{name}_ms": None if part is None else round(part * 1000, 1) for name, part in vars(self).items()}


@dataclass(frozen=True)
class Outcome:
    """``failure`` says why nothing may be called frozen; then ``disks`` is not used. ``held``: what ``required`` asks for was
    met."""

    frozen_ms: float | None
    filesystems: int
    failure: str | None
    flushed: bool
    disks: Mapping[str, Disk] = field(default_factory=dict)
    expedited: bool = False
    held: bool = False
    timings: Timings | None = None

    @property
    def degraded_reason(self) -> str | None:
        """Why the set is only crash consistent, for people; None when every filesystem was frozen."""
        return _told(self.failure or filesystems.told_of_set(self.disks))

    @property
    def level(self) -> str:
        """ "filesystem" when every mounted filesystem on the set's disks was frozen, else "crash"."""
        return "crash" if self.degraded_reason else "filesystem"

    def document(self) -> dict[str, Any]:
        """The document of the set."""
        timings = self.timings.document() if self.timings else None
        return {**self._shared(), **self._lists(*self.disks.values()), "expedited": self.expedited, "timings": timings}

    def _shared(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "frozen_ms": self.frozen_ms,
            "filesystems": self.filesystems,
            "degraded_reason": self.degraded_reason,
            "flushed": self.flushed,
        }

    def _lists(self, *disks: Disk) -> dict[str, list[str]]:
        frozen = [] if self.failure else [name for disk in disks for name in disk.frozen]
        left = [name for disk in disks for name in disk.unfrozen]
        return Disk(tuple(dict.fromkeys(frozen)), tuple(dict.fromkeys(left))).document()

    def for_target(self, target: str) -> dict[str, Any]:
        """Returns the consistency document of one disk's snapshot: it claims no more than is known of that disk."""
        disk = self.disks.get(target)
        if self.failure or disk is None:
            return {**self._shared(), **self._lists(*([disk] if disk else []))}
        own = {"level": "crash" if disk.reason else "filesystem", "degraded_reason": _told(disk.reason)}
        return {**self._shared(), **own, "filesystems": len(disk.frozen), **disk.document()}


def _told(reason: str | None) -> str | None:
    """As block storage takes it: some of the words may be a guest's."""
    words = escaped(reason) if reason else reason
    return words if words is None or len(words) <= REASON_LENGTH else f"{words[:REASON_LENGTH]}..."


def crash_only(reason: str, flushed: bool = False) -> Outcome:
    """Returns the outcome of a set for which nothing was frozen, with the reason."""
    return Outcome(None, 0, reason, flushed)

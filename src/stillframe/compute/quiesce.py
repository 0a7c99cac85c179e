"""Quiesces a guest around one switch: what is asked of the agent, in which order, and what may be claimed afterwards.

Before the window: ping, what the agent can do, which filesystems lie on the set's disks, a flush, the watchdog, and what
makes the freeze short. Inside it: freeze, one switch, thaw. Nothing else. After it: the agent's own word that the guest
is thawed, and what was changed for the freeze is put back.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stillframe.compute import bounded, freeze_record, hasten, thaw
from stillframe.compute.freeze_record import FreezeRecord
from stillframe.compute.guard import Guard
from stillframe.errors import AgentFailed, ServiceUnavailable, StillframeError
from stillframe.host import hypervisor
from stillframe.journal.failpoints import reached

LOG = logging.getLogger(__name__)
NO_FILESYSTEM = "no mounted filesystem on this disk, so its writes were not held back by a freeze"
FLUSH_POLL_SECONDS = 0.02
FREEZING = {"guest-fsfreeze-status", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"}


@dataclass(frozen=True)
class Filesystems:
    """What is to be frozen. ``mountpoints`` None: the agent cannot say which lie where, so all of them.

    ``on_target`` counts the filesystems of each disk of the set; a disk with none cannot be quiesced.
    """

    mountpoints: tuple[str, ...] | None
    on_target: Mapping[str, int]


@dataclass(frozen=True)
class Preflight:
    """Whether the guest can be quiesced now: ``reason`` says why not, and is None when it can."""

    reason: str | None = None
    commands: frozenset[str] = frozenset()
    filesystems: Filesystems | None = None


@dataclass(frozen=True)
class Outcome:
    """What happened in the window. ``level`` is "filesystem" or "crash"; ``degraded_reason`` says why it is crash."""

    level: str
    frozen_ms: float | None
    filesystems: int
    degraded_reason: str | None
    flushed: bool
    on_target: Mapping[str, int] = field(default_factory=dict)
    hastened: bool = False

    def document(self) -> dict[str, Any]:
        """The document of the set."""
        return {**self._shared(), "hastened": self.hastened}

    def _shared(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "frozen_ms": self.frozen_ms,
            "filesystems": self.filesystems,
            "degraded_reason": self.degraded_reason,
            "flushed": self.flushed,
        }

    def for_target(self, target: str) -> dict[str, Any]:
        """The document of one disk's snapshot: a disk without a filesystem is never called more than crash-consistent."""
        own = self._shared()
        if self.level == "filesystem" and self.on_target:
            own["filesystems"] = self.on_target.get(target, 0)
            if own["filesystems"] == 0:
                own.update(level="crash", degraded_reason=NO_FILESYSTEM)
        return own


@dataclass(frozen=True)
class Times:
    """Limits in seconds: the freeze deadline, the agent's ping, the flush (0: none); and whether to hasten the freeze."""

    deadline: float
    agent: int
    flush: int
    hasten: bool = False


def crash_only(reason: str, flushed: bool = False) -> Outcome:
    return Outcome("crash", None, 0, reason, flushed)


def preflight(domain: Any, targets: tuple[str, ...], times: Times) -> Preflight:
    """Asks the agent whether it answers and what it can do. Changes nothing in the guest."""
    try:
        hypervisor.agent_command(domain, "guest-ping", None, times.agent)
        info = hypervisor.agent_command(domain, "guest-info", None, times.agent)
        commands = frozenset(str(entry["name"]) for entry in info["supported_commands"] if entry.get("enabled") is True)
        if not _thawed(domain, commands, times):
            return Preflight("the guest is already frozen by somebody else")
        if not commands >= FREEZING:
            return Preflight("the guest agent does not allow freezing")
    except (AgentFailed, KeyError, TypeError, AttributeError) as error:
        words = error.message if isinstance(error, AgentFailed) else f"its answer makes no sense ({error!r})"
        return Preflight(f"the guest agent does not answer: {words}")
    found = _filesystems(domain, targets, commands, times)
    if found.mountpoints == ():
        return Preflight("no filesystem is mounted on the set's disks", commands, found)
    return Preflight(None, commands, found)


def _thawed(domain: Any, commands: frozenset[str], times: Times) -> bool:
    """Asked before what the agent can do is judged: one that has frozen its guest calls freezing disabled (qemu-ga 7.2)."""
    if "guest-fsfreeze-status" not in commands:
        return True  # it cannot freeze either, which is the next question
    return bool(hypervisor.agent_command(domain, "guest-fsfreeze-status", None, times.agent) == "thawed")


def _filesystems(domain: Any, targets: tuple[str, ...], commands: frozenset[str], times: Times) -> Filesystems:
    everything = Filesystems(None, {})
    if not {"guest-get-fsinfo", "guest-fsfreeze-freeze-list"} <= commands:
        return everything
    try:
        mounted = hypervisor.guest_filesystems(domain, max(5, times.agent))
    except StillframeError as error:
        LOG.info("the agent cannot say which filesystems lie on which disk: %s", error.message)
        return everything
    if any(not disks for _, _, disks in mounted):
        return everything
    # A filesystem mounted twice is frozen once: one mount point for each device.
    by_device = {device: (point, disks) for point, device, disks in reversed(mounted)}
    ours = [(point, disks) for point, disks in by_device.values() if set(disks) & set(targets)]
    counts = {target: sum(target in disks for _, disks in ours) for target in targets}
    return Filesystems(tuple(point for point, _ in ours), counts)


def flush(domain: Any, commands: frozenset[str], seconds: int) -> bool:
    """Has the guest write its dirty pages before the freeze, so that the freeze has little to write. Returns whether it did."""
    if seconds <= 0 or not {"guest-exec", "guest-exec-status"} <= commands:
        return False
    try:
        started = hypervisor.agent_command(domain, "guest-exec", {"path": "sync"}, 5)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = hypervisor.agent_command(domain, "guest-exec-status", {"pid": started["pid"]}, 5)
            if status["exited"]:
                return bool(status.get("exitcode") == 0)
            time.sleep(FLUSH_POLL_SECONDS)
    except (AgentFailed, KeyError, TypeError) as error:
        LOG.info("no flush before the freeze: %s", error)
    return False


def frozen(guard: Guard, domain: Any, operation: str, ready: Preflight, times: Times) -> "Window":
    """Arms the watchdog and returns the window, not yet entered. Raises ServiceUnavailable, Conflict."""
    assert ready.filesystems is not None
    flushed = flush(domain, ready.commands, times.flush)
    former = hasten.former_value(domain, ready.commands, times.agent) if times.hasten else None
    record = guard.arm(domain.UUIDString(), operation, times.deadline, former)
    reached("quiesce/armed")
    hastened = False
    if former is not None:
        hastened = hasten.begin(domain, times.agent)
        reached("quiesce/hastened")
        if record.deadline - freeze_record.boot_seconds() < times.deadline / 2:
            record = guard.renew(record, times.deadline)  # a slow agent must not eat up the time of the freeze
    return Window(guard, domain, record, ready.filesystems, max(1, int(times.deadline)), Prepared(flushed, hastened))


@dataclass(frozen=True)
class Prepared:
    """What the guest did before the freeze, to make it short."""

    flushed: bool
    hastened: bool


@dataclass(frozen=True)
class Window:
    """One frozen window: ``around(switch)`` freezes, switches and thaws."""

    guard: Guard
    domain: Any
    record: FreezeRecord
    filesystems: Filesystems
    seconds: int
    prepared: Prepared

    def around(self, switch: Callable[[], None], unfrozen_too: bool) -> Outcome:
        """Runs the switch inside the window. When the freeze fails, the switch runs all the same if ``unfrozen_too``,
        else AgentFailed is raised and nothing was switched; the guest is thawed in any case (I7). A switch that is Late is
        waited for when the guest is thawed."""
        began = time.monotonic()
        try:
            count = self._freeze()
        except StillframeError as error:
            self._settle(after_failure=True)
            if not unfrozen_too or not isinstance(error, AgentFailed):
                raise
            bounded.patiently(switch)
            return replace(
                crash_only(f"the freeze failed: {error.message}", self.prepared.flushed), hastened=self.prepared.hastened
            )
        reached("quiesce/frozen")
        late = None
        try:
            switch()
            reached("quiesce/switched")
        except bounded.Late as found:
            late = found
        finally:
            thawed = self._thaw()
            frozen_ms = round((time.monotonic() - began) * 1000, 1)
        reached("quiesce/thawed")
        self._settle(after_failure=False)
        if late is not None:
            late.finish()
            return replace(self._judge(count, thawed, frozen_ms), level="crash", degraded_reason=bounded.LATE)
        return self._judge(count, thawed, frozen_ms)

    def give_up(self) -> None:
        """Leaves the guest as it was before; nothing was frozen or switched."""
        self._settle(after_failure=True)

    def _freeze(self) -> int:
        points = self.filesystems.mountpoints
        if points is None:
            return _count(hypervisor.agent_command(self.domain, "guest-fsfreeze-freeze", None, self.seconds))
        arguments = {"mountpoints": list(points)}
        return _count(hypervisor.agent_command(self.domain, "guest-fsfreeze-freeze-list", arguments, self.seconds))

    def _thaw(self) -> int | None:
        try:
            return _count(hypervisor.agent_command(self.domain, "guest-fsfreeze-thaw", None, self.seconds))
        except StillframeError as error:
            LOG.warning("the thaw of server %s failed, the watchdog goes on: %s", self.record.domain, error.message)
            return None

    def _settle(self, after_failure: bool) -> None:
        """Takes the record away once the agent says thawed and the guest is as before; until then the watchdog keeps it."""
        try:
            if after_failure and not self.guard.try_thaw(self.record):
                return
            if not after_failure and not (self._says_thawed() and self._as_before()):
                return
            self.guard.disarm(self.record)
        except ServiceUnavailable as error:
            LOG.warning("the watchdog of server %s: %s", self.record.domain, error.message)

    def _says_thawed(self) -> bool:
        try:
            return bool(hypervisor.agent_command(self.domain, "guest-fsfreeze-status", None, self.seconds) == "thawed")
        except StillframeError:
            return False

    def _as_before(self) -> bool:
        try:
            return thaw.as_before(self.domain, self.record)
        except StillframeError as error:
            LOG.warning("server %s: %s", self.record.domain, error.message)
            return False

    def _judge(self, count: int, thawed: int | None, frozen_ms: float) -> Outcome:
        """The thaw's count is the proof that the freeze held until then: somebody else's thaw makes it smaller."""
        points, on_target = self.filesystems.mountpoints, self.filesystems.on_target
        reason = None
        if count == 0 or (points is not None and count < len(points)):
            reason = f"the agent froze {count} of {len(points) if points is not None else 'all'} filesystems"
        elif thawed is None:
            reason = "the agent did not answer the thaw, so nobody knows how long the freeze held"
        elif thawed < count:
            reason = f"the guest was thawed before the switch was done (the deadline is {self.seconds} s)"
        level = "crash" if reason else "filesystem"
        return Outcome(level, frozen_ms, count, reason, self.prepared.flushed, on_target, self.prepared.hastened)


def _count(answer: Any) -> int:
    """An agent's answer is a guest's word: anything but a number of filesystems is a failure."""
    if not isinstance(answer, int) or isinstance(answer, bool) or answer < 0:
        raise AgentFailed(f"the guest agent answered {str(answer)[:40]!r} where a number of filesystems was expected")
    return answer

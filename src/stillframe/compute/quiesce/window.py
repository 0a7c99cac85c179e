"""Quiesces a guest around one switch: what is asked of the agent, in which order, and what may be claimed afterwards.

Before the window: ping, what the agent can do, which filesystems lie on the set's disks, a flush, the watchdog, and what
makes the freeze short. Inside it: freeze, one switch, thaw. Nothing else. After it: the agent's own word that the guest
is thawed, and what was changed for the freeze is put back.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from stillframe.compute.quiesce import bounded, expedite, filesystems, hooks, thaw
from stillframe.compute.quiesce import record as freeze_record
from stillframe.compute.quiesce.filesystems import Layout
from stillframe.compute.quiesce.guard import Guard
from stillframe.compute.quiesce.hooks import Hooks
from stillframe.compute.quiesce.outcome import Outcome, Timings, crash_only
from stillframe.compute.quiesce.record import FreezeRecord
from stillframe.errors import AgentFailed, HookFailed, ServiceUnavailable, StillframeError
from stillframe.host import hypervisor
from stillframe.journal.failpoints import reached

LOG = logging.getLogger(__name__)
FLUSH_POLL_SECONDS = 0.02
SWITCH_SECONDS = 1.0  # kept for the switch, where something else is done in the window before it
MOST_FILESYSTEMS = 1_000_000  # a guest that counts more lies
FREEZING = {"guest-fsfreeze-status", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"}


@dataclass(frozen=True)
class Preflight:
    """Whether the guest can be quiesced now. ``reason`` says why nothing can be frozen; ``unmet`` why ``required`` cannot be
    met: only filesystems that are allowed may stay unfrozen. Each is None when nothing prevents it."""

    reason: str | None = None
    unmet: str | None = None
    commands: frozenset[str] = frozenset()
    layout: Layout | None = None


@dataclass(frozen=True)
class Times:
    """Limits in seconds: the freeze deadline, the agent's ping, the flush (0: none); and whether to expedite the freeze."""

    deadline: float
    agent: int
    flush: int
    expedite: bool = False
    hooks: int = 0  # what freeze hooks may take; 0: none are looked for


def preflight(domain: Any, wanted: Layout, times: Times) -> Preflight:
    """Asks the agent whether it answers, what it can do and what is mounted. Changes nothing in the guest. ``wanted`` names the
    set's disks, and what is known of its filesystems already."""
    try:
        hypervisor.agent_command(domain, "guest-ping", None, times.agent)
        info = hypervisor.agent_command(domain, "guest-info", None, times.agent)
        commands = frozenset(str(entry["name"]) for entry in info["supported_commands"] if entry.get("enabled") is True)
        if not _thawed(domain, commands, times):
            return not_ready("the guest is frozen already, by another program")
        if not commands >= FREEZING:
            return not_ready("the guest agent does not allow freezing")
    except (AgentFailed, KeyError, TypeError, AttributeError) as error:
        words = error.message if isinstance(error, AgentFailed) else f"its answer cannot be read ({error!r})"
        return not_ready(f"the guest agent does not answer: {words}")
    layout = _layout(domain, wanted, commands, times)
    if layout.unknown is not None:
        return Preflight(None, layout.unknown, commands, layout)
    unmet = layout.not_allowed
    disks = layout.judged(layout.left)
    if any(disk.frozen for disk in disks.values()):
        return Preflight(None, unmet, commands, layout)
    reason = filesystems.told_of_set(disks) if layout.left else "no filesystem is mounted on the set's disks"
    return Preflight(reason, None if layout.left and unmet is None else unmet or reason, commands, layout)


def _thawed(domain: Any, commands: frozenset[str], times: Times) -> bool:
    """Asked before the list of the agent's commands is read: an agent whose guest is frozen lists freezing as disabled (qemu-ga
    7.2)."""
    if "guest-fsfreeze-status" not in commands:
        return True  # it cannot freeze either, which is checked next
    return bool(hypervisor.agent_command(domain, "guest-fsfreeze-status", None, times.agent) == "thawed")


def not_ready(reason: str) -> Preflight:
    """Returns the preflight of a guest that cannot be quiesced, with the reason."""
    return Preflight(reason, reason)


def _layout(domain: Any, wanted: Layout, commands: frozenset[str], times: Times) -> Layout:
    by_point = "guest-fsfreeze-freeze-list" in commands
    reason = "its command guest-get-fsinfo is not allowed"
    if "guest-get-fsinfo" in commands:
        try:
            mounted = hypervisor.guest_filesystems(domain, max(5, times.agent))
            return replace(wanted, found=filesystems.merged(mounted), by_point=by_point)
        except StillframeError as error:
            reason = error.message
    LOG.info("the agent cannot list filesystems: %s", reason)
    return replace(wanted, unknown=f"the guest agent cannot say which filesystems lie on which disk: {reason}")


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
    assert ready.layout is not None
    flushed = flush(domain, ready.commands, times.flush)
    former = expedite.former_value(domain, ready.commands, times.agent) if times.expedite else None
    found = hooks.look(domain, ready.commands, times.hooks)
    deadline = times.deadline + found.patience
    record = guard.arm(domain.UUIDString(), operation, deadline, former)
    reached("quiesce/armed")
    expedited = False
    if former is not None:
        expedited = expedite.begin(domain, times.agent)
        reached("quiesce/expedited")
        if record.deadline - freeze_record.boot_seconds() < deadline - times.deadline / 2:
            record = guard.renew(record, deadline)  # a slow agent must not use up the time of the freeze
    seconds = max(1, int(times.deadline))
    found = hooks.watch(domain, ready.commands, found, 2 * (seconds + found.patience))
    return Window(guard, domain, record, ready.layout, seconds, Prepared(flushed, expedited, found))


@dataclass(frozen=True)
class Prepared:
    """What was done before the freeze, and which hooks there are."""

    flushed: bool
    expedited: bool
    hooks: Hooks


@dataclass(frozen=True)
class Window:
    """One frozen window: ``around(switch)`` freezes, switches and thaws."""

    guard: Guard
    domain: Any
    record: FreezeRecord
    layout: Layout
    seconds: int
    prepared: Prepared

    def around(self, switch: Callable[[], None], unfrozen_too: bool) -> Outcome:
        """Runs the switch inside the window. When the freeze fails, the switch runs all the same if ``unfrozen_too``,
        else AgentFailed is raised and nothing was switched; the guest is thawed in any case (I7). A switch that is Late is
        waited for when the guest is thawed."""
        moments = [time.monotonic()]
        try:
            count = self._freeze()
        except StillframeError as error:
            error = self._with_limit(error, time.monotonic() - moments[0])
            self._settle(after_failure=True)
            if not unfrozen_too or not isinstance(error, AgentFailed):
                raise error from None
            bounded.patiently(switch)
            return replace(
                crash_only(f"the freeze failed: {error.message}", self.prepared.flushed), expedited=self.prepared.expedited
            )
        moments.append(time.monotonic())
        late = None
        try:
            self._watch_for(self.seconds)  # the hooks have ended: from here on the deadline counts for the freeze
            reached("quiesce/frozen")
            switch()
            reached("quiesce/switched")
        except bounded.Late as found:
            late = found
        finally:
            moments.append(time.monotonic())
            thawed = self._thaw()
            moments.append(time.monotonic())
        reached("quiesce/thawed")
        self._settle(after_failure=False)
        outcome = self._judge(count, thawed, self._timings(moments))
        if late is not None:
            late.finish()
            return replace(outcome, failure=str(late), held=False)
        return outcome

    @property
    def seconds_left(self) -> float:
        """How long the guest may be kept frozen before the switch, which needs a part of the deadline for itself."""
        hooks = bool(self.prepared.hooks.patience)  # the watchdog counts from the end of the freeze then
        left = self.seconds if hooks else self.record.deadline - freeze_record.boot_seconds()
        return max(0.0, left - min(SWITCH_SECONDS, self.seconds / 4))

    def cancel(self) -> None:
        """Puts the guest back as it was before; nothing was frozen or switched."""
        self._settle(after_failure=True)

    @property
    def _patience(self) -> int:
        """Returns how long a freeze or a thaw may take with its hooks (seconds)."""
        return self.seconds + self.prepared.hooks.patience

    def _freeze(self) -> int:
        points = self.layout.mountpoints
        if points is None:
            return _count(hypervisor.agent_command(self.domain, "guest-fsfreeze-freeze", None, self._patience))
        arguments = {"mountpoints": list(points)}
        return _count(hypervisor.agent_command(self.domain, "guest-fsfreeze-freeze-list", arguments, self._patience))

    def _with_limit(self, error: StillframeError, seconds: float) -> StillframeError:
        """Names the limit that was reached, where one was."""
        if not isinstance(error, AgentFailed) or isinstance(error, HookFailed) or seconds < self._patience:
            return error
        freeze = f"the freeze did not end within its deadline of {self.seconds} s (freeze_deadline_seconds)"
        hook = self.prepared.hooks.patience
        hooks = f"the guest's freeze hooks did not end within their timeout of {hook} s (hook_timeout), or "
        return AgentFailed(f"{hooks if hook else ''}{freeze}: {error.message}")

    def _watch_for(self, seconds: float) -> None:
        """Tells the watchdog of a guest with hooks how long to wait from now on; otherwise it waits for both limits."""
        if not self.prepared.hooks.patience:
            return
        try:
            self.guard.wait_for(self.record, seconds)
        except ServiceUnavailable as error:
            LOG.warning("the watchdog of server %s: %s", self.record.domain, error.message)

    def _timings(self, moments: list[float]) -> Timings:
        """``moments`` are before and after the freeze command, before and after the thaw command."""
        before, frozen, thaw_began, after = moments
        if not self.prepared.hooks.patience:
            return Timings(0.0, frozen - before, thaw_began - frozen, after - thaw_began, 0.0)
        seen = hooks.frozen_between(self.domain, self.prepared.hooks)
        if seen is None:
            return Timings(None, frozen - before, thaw_began - frozen, after - thaw_began, None)
        began, ended = min(max(seen[0], before), frozen), min(max(seen[1], thaw_began), after)
        return Timings(began - before, frozen - began, thaw_began - frozen, ended - thaw_began, after - ended)

    def _thaw(self) -> int | HookFailed | None:
        """Returns how many the agent thawed; why it did not say so; or None when it did not answer."""
        try:
            self._watch_for(self._patience)  # a second thaw meanwhile would run the hooks again
            return _count(hypervisor.agent_command(self.domain, "guest-fsfreeze-thaw", None, self._patience))
        except HookFailed as error:
            LOG.warning("the thaw of server %s: %s", self.record.domain, error.message)
            return error
        except StillframeError as error:
            LOG.warning("the thaw of server %s failed, the watchdog keeps trying: %s", self.record.domain, error.message)
            self._watch_for(0)
            return None

    def _settle(self, after_failure: bool) -> None:
        """Removes the record once the agent says thawed and the guest is as before; until then the watchdog has it."""
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

    def _judge(self, count: int, thawed: int | HookFailed | None, timings: Timings) -> Outcome:
        """The thaw's count is the proof that the freeze held until then: somebody else's thaw makes it smaller."""
        unfrozen = self.layout.passed_over(count) if self.layout.unknown is None else ()
        disks = self.layout.judged(unfrozen or ())
        failure = self.layout.unknown
        if count == 0 or unfrozen is None:
            failure = f"the agent froze {count} of {len(self.layout.to_freeze) or 'all'} filesystems, and nobody knows which"
        elif isinstance(thawed, HookFailed):
            failure = f"{thawed.message}; so it does not say whether the freeze held until the thaw"
        elif thawed is None:
            failure = "the agent did not answer the thaw, so nobody knows how long the freeze held"
        elif thawed < count:
            failure = f"the guest was thawed before the switch was done (the deadline is {self.seconds} s)"
        held = failure is None and self.layout.is_allowed(unfrozen or ())
        return Outcome(timings.frozen_ms, count, failure, self.prepared.flushed, disks, self.prepared.expedited, held, timings)


def _count(answer: Any) -> int:
    """An agent's answer is a guest's word: anything but a number of filesystems is a failure."""
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer <= MOST_FILESYSTEMS:
        raise AgentFailed(f"the guest agent answered {str(answer)[:40]!r} where a number of filesystems was expected")
    return answer

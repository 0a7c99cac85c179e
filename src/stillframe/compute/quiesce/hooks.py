"""Freeze hooks that the guest agent runs: whether there are any, and how long they took apart from the freeze.

qemu-ga 7.2 runs its ``--fsfreeze-hook`` inside the freeze command, before the first filesystem is frozen, and again inside the
thaw command, after the last is thawed. It answers one command at a time, so nobody outside sees where the hook ends. But
between the two it keeps a file, ``qga.state.isfrozen``, in its state directory. A small program in the guest, started
beforehand, watches that file and reports afterwards, by the guest's clock, when it appeared and disappeared. Needs a shell in
the guest and an agent that allows ``guest-exec``; otherwise hooks cannot be told apart from the freeze. The answers come from
the guest (R23).
"""

import base64
import binascii
import logging
import re
import time
from dataclasses import dataclass
from typing import Any

from stillframe.errors import AgentFailed
from stillframe.host import hypervisor

LOG = logging.getLogger(__name__)
NO_HOOKS = 3
ANSWER_SECONDS = 5
POLL_SECONDS = 0.02
# The agent is the parent of what it runs; Debian's package reads its configuration from /etc/qemu/qemu-ga.conf.
LOOK = (
    "tr '\\0' '\\n' </proc/$PPID/cmdline | grep -q -e '^-F' -e '^--fsfreeze-hook' && exit 0;"
    f" grep -qs '^ *fsfreeze-hook' /etc/qemu/qemu-ga.conf /etc/qemu-ga.conf && exit 0; exit {NO_HOOKS}"
)
WATCH = (
    "f=/run/qga.state.isfrozen; t() {{ read -r s _ </proc/uptime; echo $s; }}; t; n=0;"
    " while [ ! -e $f ] && [ $n -lt {rounds} ]; do sleep 0.05; n=$((n+1)); done; t;"
    " while [ -e $f ] && [ $n -lt {rounds} ]; do sleep 0.02; n=$((n+1)); done; t"
)
TOLD = re.compile(r"(\d{1,12}\.\d\d)\n(\d{1,12}\.\d\d)\n(\d{1,12}\.\d\d)\n")


@dataclass(frozen=True)
class Hooks:
    """``patience``: seconds the hooks may take, 0 where there are none. ``watcher`` is the pid of the program in the guest that
    tells them apart, ``since`` the moment (monotonic) at which it was started."""

    patience: int = 0
    watcher: int | None = None
    since: float = 0.0


def look(domain: Any, commands: frozenset[str], patience: int) -> Hooks:
    """Finds out whether the agent runs hooks. If that cannot be known, the time for hooks is granted."""
    if patience <= 0:
        return Hooks()
    if not {"guest-exec", "guest-exec-status"} <= commands:
        return Hooks(patience)
    try:
        found = _wait(domain, _start(domain, LOOK), ANSWER_SECONDS)
    except (AgentFailed, KeyError, TypeError) as error:
        LOG.info("it is not known whether the guest has freeze hooks: %s", error)
        return Hooks(patience)
    return Hooks() if found.get("exitcode") == NO_HOOKS else Hooks(patience)


def watch(domain: Any, commands: frozenset[str], hooks: Hooks, seconds: int) -> Hooks:
    """Starts the program that tells hooks and freeze apart; it ends after about ``seconds`` at the latest."""
    if not hooks.patience or "guest-exec" not in commands:
        return hooks
    since = time.monotonic()
    try:
        return Hooks(hooks.patience, _start(domain, WATCH.format(rounds=seconds * 20)), since)
    except (AgentFailed, KeyError, TypeError) as error:
        LOG.info("freeze hooks cannot be told apart from the freeze: %s", error)
        return hooks


def frozen_between(domain: Any, hooks: Hooks) -> tuple[float, float] | None:
    """Returns when the freeze began and when the thaw was done (monotonic, of this host); None when that is not known."""
    if hooks.watcher is None:
        return None
    try:
        answer = _wait(domain, hooks.watcher, ANSWER_SECONDS)
        times = TOLD.fullmatch(base64.b64decode(answer["out-data"]).decode())
    except (AgentFailed, KeyError, TypeError, ValueError, binascii.Error) as error:
        LOG.info("freeze hooks cannot be told apart from the freeze: %s", error)
        return None
    if times is None:
        return None
    start, came, went = (float(text) for text in times.groups())
    return (hooks.since + came - start, hooks.since + went - start) if start <= came <= went else None


def _start(domain: Any, script: str) -> int:
    arguments = {"path": "/bin/sh", "arg": ["-c", script], "capture-output": True}
    pid = hypervisor.agent_command(domain, "guest-exec", arguments, ANSWER_SECONDS)["pid"]
    if not isinstance(pid, int) or isinstance(pid, bool):
        raise AgentFailed(f"the guest agent answered {str(pid)[:40]!r} where the number of a process was expected")
    return pid


def _wait(domain: Any, pid: int, seconds: float) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while True:
        status: dict[str, Any] = hypervisor.agent_command(domain, "guest-exec-status", {"pid": pid}, ANSWER_SECONDS)
        if status["exited"]:
            return status
        if time.monotonic() > end:
            raise AgentFailed("a program in the guest did not end")
        time.sleep(POLL_SECONDS)

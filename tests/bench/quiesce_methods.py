"""The three ways to snapshot a running guest's disks that are compared."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.support.guest.domain import Guest
from tests.support.lab import Lab
from tests.support.service import PROGRAM

LOOK_SECONDS = 0.5  # seldom, because each look costs the services some milliseconds of what is measured


@dataclass(frozen=True)
class Sample:
    """``felt_ms``: how long the guest's writer was held up, all stalls of the method together.

    ``beyond_ms``, of ours only: from the request to "available", without the time the agent and libvirt took.
    """

    felt_ms: float
    beyond_ms: float = 0.0


def _felt(guest: Guest, act: Callable[[], None]) -> float:
    """Runs ``act`` and returns the slowest round of the writer meanwhile."""
    _settle(guest)
    seen = len(guest.beats())
    act()
    _settle(guest)
    return max(beat.slowest_ms for beat in guest.beats()[seen:])


def _settle(guest: Guest) -> None:
    """Waits for two more reports, so that the stall just ended is in."""
    seen = len(guest.beats())
    while len(guest.beats()) < seen + 2:
        time.sleep(0.05)


def ours(lab: Lab, guest: Guest) -> Sample:
    """(a): one assisted snapshot of all disks, through the API."""
    began: list[float] = []
    taken: list[str] = []

    # A look beforehand, so that both services know the passwords: checking one costs them 60 ms once a minute.
    lab.api.ok("compute", "GET", f"/servers/{guest.id}/os-volume_attachments")

    def act() -> None:
        began.append(time.time())
        path = f"/servers/{guest.id}/os-assisted-snapshots"
        made = lab.api.ok("compute", "POST", path, {"assisted_snapshot": {"quiesce": "preferred"}})["assisted_snapshot"]
        taken.append(made["id"])
        while (found := lab.api.set(made["id"]))["status"] == "creating":
            time.sleep(LOOK_SECONDS)
        assert (found["status"], found["consistency"]["level"]) == ("available", "filesystem"), found

    felt = _felt(guest, act)
    ended, switch_ms = _journal(lab, taken[0])
    return Sample(felt, (ended - began[0]) * 1000 - switch_ms)


def _journal(lab: Lab, set_id: str) -> tuple[float, float]:
    """Returns when the set became available, in seconds since the epoch, and the ms its switch took, agent and all."""
    command = [*PROGRAM, "operation", "show", "--state-dir", str(lab.stack.state_dir), set_id, "-f", "json"]
    shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    ended = datetime.fromisoformat(shown["updated_at"]).replace(tzinfo=UTC).timestamp()
    return ended, float(json.loads(shown["evidence"])["switch"]["switch_ms"])


def virsh_quiesce(lab: Lab, guest: Guest) -> Sample:
    """(b): libvirt makes the overlays and freezes, all disks in one call."""
    targets = _targets(guest)
    felt = _felt(guest, lambda: _snapshot(lab, guest, targets))
    _merge_back(lab, guest, targets)
    return Sample(felt)


def one_by_one(lab: Lab, guest: Guest) -> Sample:
    """(c): as Nova does it: one volume after the other, each with its own quiesce, on an overlay made beforehand."""
    felt = 0.0
    for target in _targets(guest):
        felt += _felt(guest, lambda target=target: _snapshot(lab, guest, [target]))  # type: ignore[misc]
    _merge_back(lab, guest, _targets(guest))
    return Sample(felt)


def _targets(guest: Guest) -> list[str]:
    listed = _virsh(guest, "domblklist", guest.id)
    return [line.split()[0] for line in listed.split("\n") if line.strip().startswith("vd")]


def _snapshot(lab: Lab, guest: Guest, targets: list[str]) -> None:
    specs: list[str] = []
    for target in _targets(guest):
        chosen = f"{target},snapshot=external,file={_overlay(lab, target)}" if target in targets else f"{target},snapshot=no"
        specs += ["--diskspec", chosen]
    _virsh(guest, "snapshot-create-as", guest.id, "--disk-only", "--atomic", "--quiesce", "--no-metadata", *specs)


def _overlay(lab: Lab, target: str) -> Path:
    return lab.stack.share / f"bench.{target}"


def _merge_back(lab: Lab, guest: Guest, targets: list[str]) -> None:
    for target in targets:
        _virsh(guest, "blockcommit", guest.id, target, "--shallow", "--active", "--pivot", "--wait")
        _overlay(lab, target).unlink()


def _virsh(guest: Guest, *arguments: str) -> str:
    done = subprocess.run(["virsh", "-q", "-c", guest.hypervisor.uri, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout

"""The three ways to snapshot a running guest's disks that are compared."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.guest.domain import Guest
from tests.support.lab import Lab


@dataclass(frozen=True)
class Sample:
    """``felt_ms``: how long the guest's writer was held up, all stalls of the method together; ``wall_ms``: the whole call."""

    felt_ms: float
    wall_ms: float


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
    wall: list[float] = []

    def act() -> None:
        began = time.monotonic()
        found = lab.api.take(guest.id, quiesce="preferred")
        wall.append((time.monotonic() - began) * 1000)
        assert found["consistency"]["level"] == "filesystem", found

    return Sample(_felt(guest, act), wall[0])


def virsh_quiesce(lab: Lab, guest: Guest) -> Sample:
    """(b): libvirt makes the overlays and freezes, all disks in one call."""
    targets = _targets(guest)
    began = time.monotonic()
    felt = _felt(guest, lambda: _snapshot(lab, guest, targets))
    wall = (time.monotonic() - began) * 1000
    _merge_back(lab, guest, targets)
    return Sample(felt, wall)


def one_by_one(lab: Lab, guest: Guest) -> Sample:
    """(c): as Nova does it: one volume after the other, each with its own quiesce, on an overlay made beforehand."""
    began, felt = time.monotonic(), 0.0
    for target in _targets(guest):
        felt += _felt(guest, lambda target=target: _snapshot(lab, guest, [target]))  # type: ignore[misc]
    wall = (time.monotonic() - began) * 1000
    _merge_back(lab, guest, _targets(guest))
    return Sample(felt, wall)


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

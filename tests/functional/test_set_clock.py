"""A clock that is set while the services run: nothing waits until it has caught up, and nothing ends for its sake."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.content import digest
from tests.support.lab import open_lab
from tests.support.operator import Operator
from tests.support.service import Command
from tests.support.stack import wait_for

SHIM = Path(__file__).parents[1] / "support/clock_shim.c"
DAY = 86_400


class Site(Operator):
    """Services whose clock the test sets."""

    shift: Path

    def set_clock(self, seconds: int) -> None:
        """Sets it to that many seconds from the host's."""
        written = self.shift.with_name("shift.new")
        written.write_text(str(seconds))
        written.replace(self.shift)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    library, shift = tmp_path / "clock.so", tmp_path / "shift"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, SHIM, "-ldl"], check=True)
    shift.write_text("0")

    def begin(arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> Command:
        return Command(arguments, log, {**environment, "LD_PRELOAD": str(library), "CLOCK_SHIFT": str(shift)})

    lab = open_lab(tmp_path, begin=begin)
    try:
        made = Site(lab)
        made.shift = shift
        yield made
    finally:
        lab.clear()


def live(site: Site) -> None:
    """A volume, a snapshot of it and the snapshot's end: both services take part."""
    api = site.api
    snapshot_id = site.snapshot(api.create_volume())
    api.ok("volume", "DELETE", f"/snapshots/{snapshot_id}")
    wait_for(lambda: api.send("volume", "GET", f"/snapshots/{snapshot_id}").status_code == 404, "the deletion")
    assert api.ok("compute", "GET", "/servers/detail") == {"servers": []}


def test_work_goes_on_whichever_way_the_clock_is_set(site: Site) -> None:
    """The library with which services call each other slept before each call until a clock that was set back had caught up."""
    first = site.api.create_volume("before")
    site.settle()
    held = digest(site.share, f"volume-{first}")
    for seconds in (DAY, -DAY, 3650 * DAY, 0):
        site.set_clock(seconds)
        live(site)
    assert digest(site.share, f"volume-{first}") == held

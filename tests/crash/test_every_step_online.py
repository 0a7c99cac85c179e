"""Every operation that needs a guest, stopped with SIGKILL at every step, then taken up again by a new process.

Merges under a running guest are in ``test_merges``.
"""

import os
from collections.abc import Iterator

import pytest

from tests.crash import samples
from tests.crash.guests import SCENARIOS, GuestRun, Guests
from tests.crash.places import Place, everywhere
from tests.support import sound
from tests.support.iscsi_lab import IscsiLab, open_iscsi_lab

pytestmark = pytest.mark.timeout(1200)  # the first test waits for all of them
EVERY = bool(os.environ.get("STILLFRAME_EVERY_PLACE"))
TWICE = ("attach_volume", "detach_volume")  # an iSCSI volume is stopped at every place of the same plan


def is_run(scenario: str, place: Place) -> bool:
    return EVERY or scenario not in TWICE or place.name.endswith("effect")


RUNS = [
    GuestRun(scenario, place)
    for scenario, request in samples.online().items()
    if scenario in SCENARIOS
    for place in everywhere(request)
    if is_run(scenario, place)
]


@pytest.fixture(scope="module")
def ended(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[IscsiLab]:
    """All that was asked for, stopped and looked at once."""
    directory = tmp_path_factory.mktemp("lab")
    with open_iscsi_lab(directory, "workers = 16\n") as site:
        asked = {item.name.partition("[")[2] for item in request.session.items}
        with sound.worker(site.lab.stack.state_dir, directory / "stillframe.conf") as worker:
            guests = Guests(site, worker)
            guests.open()
            guests.run_all([run for run in RUNS if f"{run}]" in asked], SCENARIOS)
        yield site


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_a_kill_there_ends_with_everything_right(ended: IscsiLab, run: GuestRun) -> None:
    if run.error is not None:
        raise run.error
    assert run.over

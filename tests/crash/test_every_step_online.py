"""Every operation that needs a guest, stopped with SIGKILL at every step, then taken up again by a new process.

Merges under a running guest are in ``test_merges``.
"""

from collections.abc import Iterator

import pytest

from tests.crash import samples
from tests.crash.guests import SCENARIOS, GuestRun, Guests
from tests.crash.places import everywhere
from tests.support import sound
from tests.support.lab import Lab, open_lab

pytestmark = pytest.mark.timeout(1200)  # the first test waits for all of them
RUNS = [
    GuestRun(kind, place) for kind, request in samples.online().items() if kind in SCENARIOS for place in everywhere(request)
]


@pytest.fixture(scope="module")
def ended(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """All that was asked for, stopped and looked at once."""
    lab = open_lab(tmp_path_factory.mktemp("lab"), "[DEFAULT]\nworkers = 16\n")
    try:
        asked = {item.name.partition("[")[2] for item in request.session.items}
        with sound.world(lab.stack.state_dir) as world:
            guests = Guests(lab, world)
            guests.open()
            guests.run_all([run for run in RUNS if f"{run.place}]" in asked], SCENARIOS)
        yield lab
    finally:
        lab.clear()


@pytest.mark.parametrize("run", RUNS, ids=lambda run: str(run.place))
def test_killed_there_all_is_well_in_the_end(ended: Lab, run: GuestRun) -> None:
    if run.error is not None:
        raise run.error
    assert run.over

"""Every operation that needs no guest, stopped with SIGKILL at every step, then taken up again by a new process.

Each has volumes of its own, so dozens are held at their places in one process before it is killed.
"""

from collections.abc import Iterator

import pytest

from tests.crash import guests, samples
from tests.crash.campaign import Campaign, runs
from tests.crash.scenarios import SCENARIOS, Run
from tests.crash.stage import open_stage

pytestmark = pytest.mark.timeout(1200)  # the first test waits for all of them
RUNS = list(runs())
# In test_merges and test_adoption. The one step of await_server is one transaction, and begun anew in
# unit/compute/operations/test_await_server.
ELSEWHERE = {"merge_volume", "await_server", "adopt_disks", "release_disks", "release_volume"}


@pytest.fixture(scope="module")
def campaign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    """All that was asked for, run once."""
    with open_stage(tmp_path_factory.mktemp("stage")) as stage:
        asked = {item.name.partition("[")[2] for item in request.session.items}
        made = Campaign(stage, [run for run in RUNS if f"{run}]" in asked])
        made.run_all()
        yield made


def test_every_kind_of_operation_is_stopped_somewhere() -> None:
    assert [scenario.name for scenario in SCENARIOS] == list(samples.offline())
    with_guest = {name.split()[0] for name in guests.SCENARIOS}
    assert {scenario.name.split()[0] for scenario in SCENARIOS} | with_guest | ELSEWHERE == set(samples.KINDS)


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_a_kill_there_ends_with_everything_right(campaign: Campaign, run: Run) -> None:
    campaign.check(run)


def test_nothing_is_left_over(campaign: Campaign) -> None:
    campaign.check_share()

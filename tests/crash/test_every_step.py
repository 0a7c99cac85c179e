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
# In test_merges; the one step of await_server is one transaction, and begun anew in unit/compute/operations/test_await_server.
ELSEWHERE = {"merge_volume", "await_server"}


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
    assert {scenario.name.split()[0] for scenario in SCENARIOS} | set(guests.SCENARIOS) | ELSEWHERE == set(samples.KINDS)


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_killed_there_all_is_well_in_the_end(campaign: Campaign, run: Run) -> None:
    campaign.check(run)


def test_nothing_lies_about(campaign: Campaign) -> None:
    campaign.check_share()

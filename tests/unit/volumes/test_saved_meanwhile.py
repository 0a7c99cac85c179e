"""A stopped server is started and saved, by somebody who does not ask us, at every moment of what changes its files."""

import pytest

from stillframe.errors import Conflict
from stillframe.volumes.requests import snapshots as snapshot_requests
from stillframe.volumes.requests import volumes as volume_requests
from tests.unit.volumes import fakes
from tests.unit.volumes.site import Site, restore, save
from tests.unit.volumes.test_every_moment import (
    Attached,
    CommitUnderAStoppedServer,
    PullUnderAStoppedServer,
    SeveralUnderAStoppedServer,
)

REFUSAL = {"refusal": "server is saved: start it", "state": "saved"}
KINDS = [CommitUnderAStoppedServer, PullUnderAStoppedServer, SeveralUnderAStoppedServer]


class Saver:
    """Saves the server at one moment; it is restored and shut down once block storage has seen that it is saved."""

    def __init__(self, site: Site, volume_id: str, moment: int) -> None:
        self.left, self.moments = moment, 0
        self.server = fakes.compute(site.worker).servers[volume_id]
        self.during = ""  # what went on when it was saved
        self.changed: list[str] = []  # while it was saved
        fakes.compute(site.worker).seen_running = self.come_back

    def move(self, what: str) -> None:
        self.moments += 1
        if "refusal" in self.server and what != "document":  # which tells of the rows, and is written when all is done, too
            self.changed.append(what)
        self.left -= 1
        if self.left == 0:
            self.server.update(REFUSAL)
            self.during = what

    def come_back(self) -> None:
        for key in REFUSAL:
            self.server.pop(key, None)


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_is_begun_while_the_server_is_saved(site: Site, kind: type[Attached]) -> None:
    case = kind(site)
    begun = save(site)
    case.act(site)
    counter = Saver(site, case.volume_id, 0)
    site.end_with(counter.move)
    outcomes = set()
    for moment in range(1, counter.moments + 1):
        restore(site, begun)
        case.act(site)
        saver = Saver(site, case.volume_id, moment)
        site.end_with(saver.move)
        saver.come_back()
        fakes.compute(site.worker).seen_running = lambda: None
        # The step that went on when the server was saved is over first; the next one is not begun.
        assert set(saver.changed) <= {saver.during}, (moment, saver.during, saver.changed)
        operation = site.newest()
        assert operation["state"] in ("done", "undone"), (moment, operation["fault"])
        outcomes.add(operation["state"])
        site.check()
        if operation["state"] == "done":
            assert site.share.content(str(saver.server["file"])) == site.model[case.volume_id], moment
            case.look(site)
    assert "done" in outcomes


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_asked_for_while_the_server_is_saved(site: Site, kind: type[Attached]) -> None:
    case = kind(site)
    fakes.compute(site.worker).servers[case.volume_id].update(REFUSAL)
    before, newest = dict(site.share.entries), site.newest()
    with pytest.raises(Conflict, match="is saved: start it"):
        case.act(site)
    with pytest.raises(Conflict, match="is saved"):
        volume_requests.extend(site.worker, site.member, case.volume_id, 5)
    with pytest.raises(Conflict, match="is saved"):
        volume_requests.revert(site.worker, site.member, case.volume_id, case.taken[-1], "keep")
    told = snapshot_requests.explain(site.worker, site.member, case.taken[0])
    assert not told["possible"] and "is saved" in told["why"]
    assert (dict(site.share.entries), site.newest()) == (before, newest)

"""A stopped server is started, by somebody who does not ask us, at every moment of what changes its volume's files."""

import pytest

from stillframe.errors import StepFailed
from tests.unit.volumes import fakes
from tests.unit.volumes.memory_share import File
from tests.unit.volumes.site import Site, restore, save
from tests.unit.volumes.test_every_moment import (
    Attached,
    CommitUnderAStoppedServer,
    PullUnderAStoppedServer,
    SeveralUnderAStoppedServer,
)

# QEMU's locks keep the server from files we change, and us from those it has.
LOCKED = ("commit", "pull", "repoint", "repair", "resize")
CLUSTER, VALUE = 8, 777


class Starter:
    """Starts the server at one moment, lets it write, and stops it once block storage has seen that it runs."""

    def __init__(self, site: Site, volume_id: str, moment: int) -> None:
        self.site, self.volume_id, self.left = site, volume_id, moment
        self.moments = 0
        self.started = False
        fakes.compute(site.worker).seen_running = self.stop

    @property
    def server(self) -> dict[str, object]:
        return fakes.compute(self.site.worker).servers[self.volume_id]

    def move(self, what: str) -> None:
        self.moments += 1
        if self.server["active"] and what in LOCKED:
            self.stop()
            raise StepFailed("a file is locked")
        self.left -= 1
        if self.left == 0 and what not in LOCKED and self.server["file"] in self.site.share.entries:
            file: File = self.site.share.entries[str(self.server["file"])]
            file.clusters[CLUSTER] = VALUE
            self.site.model[self.volume_id] = {**self.site.model[self.volume_id], CLUSTER: VALUE}
            self.server["active"] = self.started = True

    def stop(self) -> None:
        self.server["active"] = False


@pytest.mark.parametrize("kind", [CommitUnderAStoppedServer, PullUnderAStoppedServer, SeveralUnderAStoppedServer])
def test_nothing_is_lost_that_a_server_writes_which_somebody_starts(site: Site, kind: type[Attached]) -> None:
    case = kind(site)
    begun = save(site)
    case.act(site)
    counter = Starter(site, case.volume_id, 0)
    site.end_with(counter.move)
    started = 0
    for moment in range(1, counter.moments + 1):
        restore(site, begun)
        case.act(site)
        starter = Starter(site, case.volume_id, moment)
        site.end_with(starter.move)
        starter.stop()
        fakes.compute(site.worker).seen_running = lambda: None
        if not starter.started:
            continue
        operation = site.newest()
        assert operation["state"] == "done", (moment, operation["fault"])
        assert starter.server["file"] == site.row(case.volume_id)["active_file"]
        assert site.share.content(str(starter.server["file"])) == site.model[case.volume_id], moment
        site.check()
        case.look(site)
        started += 1
    assert started > 5

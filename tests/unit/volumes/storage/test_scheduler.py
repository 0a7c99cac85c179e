"""Where a new volume comes to lie, and whether there is room."""

from pathlib import Path
from typing import Any

import pytest

from stillframe import config
from stillframe.db import volume_types
from stillframe.db.engine import Database
from stillframe.errors import BadRequest, ShareUnavailable
from stillframe.volumes.storage import scheduler
from stillframe.volumes.storage.backends import Backends
from stillframe.volumes.worker.context import WorkerContext
from tests.unit import builders
from tests.unit.builders import VOLUME
from tests.unit.volumes import fakes
from tests.unit.volumes.memory_share import MemoryShare

TWO = """
[DEFAULT]
enabled_backends = slow, fast
[slow]
share_dir = /srv/slow
max_over_subscription_ratio = 2
reserved_percentage = 50
[fast]
share_dir = /srv/fast
volume_backend_name = quick
"""


class Sites:
    """Two backends with one share each, both in memory."""

    def __init__(self, database: Database, state_dir: Path) -> None:
        file = state_dir / "stillframe.conf"
        file.write_text(TWO)
        settings = config.load([str(file)], {(None, "state_dir"): str(state_dir)})
        backends = Backends(settings, database)
        self.shares = {pool.backend: MemoryShare() for pool in backends.pools}
        for pool in backends.pools:
            pool._open = self.shares[pool.backend]
        unused: Any = None
        self.worker = WorkerContext(database, backends, unused, unused, settings)

    def choose(self, size: int = 1, needed: int = 0, **extra_specs: str) -> str:
        row: Any = {"name": "t", "extra_specs": extra_specs}
        return scheduler.choose(self.worker.backends, row, size, needed).backend


@pytest.fixture
def sites(database: Database, tmp_path: Path) -> Sites:
    return Sites(database, tmp_path)


def volume(sites: Sites, backend: str, size: int, **more: Any) -> Any:
    with sites.worker.database.write() as connection:
        volume_types.ensure_default(connection)
        return builders.volume_row(connection, size=size, backend=backend, share=f"/srv/{backend}", **more)


def test_the_share_with_the_most_free_space_is_taken(sites: Sites) -> None:
    for best in ("slow", "fast"):
        for name, share in sites.shares.items():
            share.space = (2 if name == best else 1) << 40
        assert sites.choose() == best


@pytest.mark.parametrize("asked", ["quick", "fast"])
def test_a_type_asks_for_a_backend_by_its_name_or_its_section(sites: Sites, asked: str) -> None:
    sites.shares["slow"].space = 1 << 50
    assert sites.choose(volume_backend_name=asked) == "fast"


def test_a_type_that_asks_for_a_backend_nobody_has_is_refused(sites: Sites) -> None:
    with pytest.raises(BadRequest, match="no enabled backend fits volume type t"):
        sites.choose(volume_backend_name="golden")


def test_a_share_that_does_not_answer_is_passed_over_and_named_when_none_is_left(sites: Sites) -> None:
    sites.shares["slow"].silent = True
    assert sites.choose() == "fast"
    sites.shares["fast"].kept = 1 << 60
    with pytest.raises(ShareUnavailable, match=r"does not answer; .* full"):
        sites.choose()


def test_room_is_asked_for_what_is_written_at_once(sites: Sites) -> None:
    sites.shares["slow"].space, sites.shares["fast"].space = 10, 20
    assert sites.choose(needed=20) == "fast"
    with pytest.raises(ShareUnavailable):
        sites.choose(needed=21)


def test_no_more_is_promised_than_the_reserve_and_the_ratio_allow(sites: Sites) -> None:
    """4 TiB, half of it reserved, promised twice: 4,096 GiB."""
    row = volume(sites, "slow", 4000)
    scheduler.check_room(sites.worker.backends, row, 96)
    with pytest.raises(ShareUnavailable, match="4000 GiB promised; with 97 more it would be over its 4096 GiB") as told:
        scheduler.check_room(sites.worker.backends, row, 97)
    assert told.value.details == {"promised": 4000, "limit": 4096}
    assert sites.choose(97) == "fast"


def test_what_lies_on_one_share_is_not_counted_on_another(sites: Sites) -> None:
    volume(sites, "slow", 4096)
    other = volume(sites, "fast", 1, id=builders.OTHER_VOLUME)
    scheduler.check_room(sites.worker.backends, other, 4096)


def test_a_share_that_is_over_its_promise_still_takes_what_promises_nothing(sites: Sites) -> None:
    row = volume(sites, "slow", 9999)
    scheduler.check_room(sites.worker.backends, row, 0, 1 << 20)


def test_content_is_what_a_reader_of_the_chain_finds() -> None:
    share = fakes.share(f"volume-{VOLUME}.{builders.SNAPSHOT}")
    for cluster in range(3):
        share.write(f"volume-{VOLUME}", cluster, 1)
    share.write(f"volume-{VOLUME}.{builders.SNAPSHOT}", 0, 2)
    share.write(f"volume-{VOLUME}.{builders.SNAPSHOT}", 9, 2)
    assert scheduler.content_bytes(share, f"volume-{VOLUME}.{builders.SNAPSHOT}", "qcow2") == 4 << 16


def test_a_share_is_remembered_and_found_by_what_a_row_says(sites: Sites) -> None:
    row = volume(sites, "fast", 1)
    assert sites.worker.share(row) is sites.shares["fast"]
    assert sites.worker.backends.pool(row).name == "fast#/srv/fast"
    with pytest.raises(ShareUnavailable, match=r"no enabled backend has the share /srv/gone \(backend old\)"):
        sites.worker.share({"share": "/srv/gone", "backend": "old"})

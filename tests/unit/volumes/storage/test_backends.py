"""The shares of the enabled backends: opened once, known by their markers, swept where they answer."""

from pathlib import Path

import pytest

from stillframe import config
from stillframe.config import Settings
from stillframe.db import shares
from stillframe.db.engine import Database
from stillframe.errors import ShareUnavailable
from stillframe.volumes.storage.backends import Backends
from stillframe.volumes.storage.drivers.markers import MARKER
from tests.unit import builders
from tests.unit.builders import VOLUME

CONFIGURATION = """
[DEFAULT]
enabled_backends = first, second
[first]
share_dir = {0}/first
[second]
share_dir = {0}/second
volume_backend_name = quick
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    file = tmp_path / "stillframe.conf"
    file.write_text(CONFIGURATION.format(tmp_path))
    return config.load([str(file)], {(None, "state_dir"): str(tmp_path / "state")})


@pytest.fixture
def backends(settings: Settings, database: Database) -> Backends:
    return Backends(settings, database)


def test_the_shares_come_in_the_order_of_the_configuration(backends: Backends, tmp_path: Path) -> None:
    assert [pool.name for pool in backends.pools] == [f"{name}#{tmp_path}/{name}" for name in ("first", "second")]


def test_a_share_is_opened_when_it_is_first_needed_and_only_once(backends: Backends, tmp_path: Path) -> None:
    assert not (tmp_path / "first").exists()
    (pool, _other) = backends.pools
    assert pool.share() is pool.share()
    assert (tmp_path / "first" / MARKER).exists()
    assert not (tmp_path / "second").exists()


def test_a_share_is_known_again_by_its_marker(
    backends: Backends, settings: Settings, database: Database, tmp_path: Path
) -> None:
    for pool in backends.pools:
        pool.share().probe()
    with database.read() as connection:
        known = [shares.known_id(connection, f"{tmp_path}/{name}") for name in ("first", "second")]
    assert len({*known, None}) == 3
    again = Backends(settings, database)
    for pool in again.pools:
        pool.share().probe()
    (tmp_path / "first").rename(tmp_path / "aside")
    (tmp_path / "second").rename(tmp_path / "first")
    with pytest.raises(ShareUnavailable, match="not the share it was"):
        Backends(settings, database).pools[0].share().probe()


def test_an_empty_directory_in_a_lost_shares_place_is_never_taken_for_it(
    backends: Backends, settings: Settings, database: Database, tmp_path: Path
) -> None:
    backends.pools[0].share()
    (tmp_path / "first").rename(tmp_path / "aside")
    (tmp_path / "first").mkdir()
    with pytest.raises(ShareUnavailable):
        Backends(settings, database).pools[0].share().probe()
    assert list((tmp_path / "first").iterdir()) == []


def test_a_row_is_found_by_its_share(backends: Backends, tmp_path: Path) -> None:
    place = {"share": f"{tmp_path}/second", "backend": "renamed meanwhile"}
    assert backends.pool(place) is backends.pools[1]
    assert backends.share(place) is backends.pools[1].share()
    with pytest.raises(ShareUnavailable, match="no enabled backend"):
        backends.pool({"share": "/gone", "backend": "first"})


def test_a_type_that_asks_for_nothing_may_have_any(backends: Backends) -> None:
    def names(**specs: str) -> list[str]:
        return [pool.backend for pool in backends.of_type(specs)]

    assert names() == ["first", "second"]
    assert names(volume_backend_name="quick") == names(volume_backend_name="second") == ["second"]
    assert names(volume_backend_name="first") == ["first"]
    assert names(volume_backend_name="x") == []


def test_raw_files_are_known_to_the_share(backends: Backends, database: Database, tmp_path: Path) -> None:
    pool = backends.pools[0]
    with database.write() as connection:
        builders.volume_row(connection, base_format="raw", share=f"{tmp_path}/first")
        builders.volume_row(connection, id=builders.OTHER_VOLUME, base_format="raw", share=f"{tmp_path}/second")
    assert pool._raw_files() == {f"volume-{VOLUME}"}


def test_one_share_that_does_not_answer_keeps_the_others_from_nothing(backends: Backends, tmp_path: Path) -> None:
    for pool in backends.pools:
        pool.share()
    (tmp_path / "first" / MARKER).unlink()
    trash = tmp_path / "second" / f".trash.volume-{VOLUME}"
    trash.write_bytes(b"")
    backends.sweep()
    assert trash.exists(), "it is not old enough"


def test_what_the_statistics_show_of_a_share(backends: Backends) -> None:
    found = backends.pools[0].capacity(7)
    assert found["provisioned_capacity_gb"] == 7
    assert 0 < found["free_capacity_gb"] <= found["total_capacity_gb"]

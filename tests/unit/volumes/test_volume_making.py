"""Requests about volumes: quotas, and what may be deleted."""

from pathlib import Path
from typing import Any

import pytest

from stillframe.db import operations, quotas, volume_types, volumes
from stillframe.db.engine import Database
from stillframe.db.rows import Row
from stillframe.errors import BadRequest, Conflict, NotFound, QuotaExceeded, ShareUnavailable
from stillframe.volumes import volume_making
from stillframe.volumes.world import World
from tests.unit import builders
from tests.unit.builders import GIB, OTHER_VOLUME, VOLUME, context
from tests.unit.volumes import fakes
from tests.unit.volumes.fakes import Driver

MEMBER = context()


def everything(database: Database) -> tuple[list[Row], list[Row]]:
    with database.read() as connection:
        return volumes.list_all(connection), operations.unfinished(connection, "volumes")


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    with database.write() as connection:
        builders.volume_row(connection)
    return fakes.world(database, tmp_path)


def test_a_volume_is_planned_and_its_row_waits(database: Database, tmp_path: Path) -> None:
    with database.write() as connection:
        volume_types.ensure_default(connection)
    world = fakes.world(database, tmp_path)
    volume_id = volume_making.create(world, MEMBER, {"size": 3, "name": "n"})
    ((row,), (operation,)) = everything(database)
    assert (row["id"], row["status"], row["size"], row["project_id"]) == (volume_id, "creating", 3, "demo")
    assert (row["active_file"], row["format"], row["availability_zone"]) == (f"volume-{volume_id}", "qcow2", "nova")
    assert operation["plan"] == [{"verb": "publish_base", "args": {"volume_id": volume_id, "size": 3 * GIB}}]


@pytest.mark.parametrize(
    ("options", "size", "told"),
    [
        ({"quota_volumes": 1}, 1, "volumes"),
        ({"quota_volumes": 0}, 1, "volumes"),
        ({"quota_gigabytes": 4}, 4, "gigabytes"),
        ({"quota_gigabytes": 0}, 1, "gigabytes"),
    ],
)
def test_a_full_quota_refuses_a_volume(world: World, tmp_path: Path, options: dict[str, Any], size: int, told: str) -> None:
    with pytest.raises(QuotaExceeded, match=told):
        volume_making.create(fakes.world(world.database, tmp_path, **options), MEMBER, {"size": size})
    assert len(everything(world.database)[0]) == 1


def test_a_quota_is_the_projects_own_and_may_be_used_up_exactly(world: World, tmp_path: Path) -> None:
    bounded = fakes.world(world.database, tmp_path, quota_gigabytes=4, quota_volumes=2)
    volume_making.create(bounded, MEMBER, {"size": 3})
    volume_making.create(bounded, context(project="other"), {"size": 4})


def test_a_quota_of_minus_one_is_none(world: World, tmp_path: Path) -> None:
    volume_making.create(fakes.world(world.database, tmp_path, quota_gigabytes=-1, quota_volumes=-1), MEMBER, {"size": 999})


def test_a_limit_set_for_a_project_wins_over_the_configuration(world: World) -> None:
    volume_making.set_quotas(world, context("admin"), "demo", {"volumes": 1})
    with pytest.raises(QuotaExceeded):
        volume_making.create(world, MEMBER, {"size": 1})
    volume_making.clear_quotas(world, context("admin"), "demo")
    volume_making.create(world, MEMBER, {"size": 1})
    with world.database.read() as connection:
        assert quotas.limits(connection, "demo") == {}


def test_a_volume_above_the_largest_size_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="larger than the allowed 2 GiB"):
        volume_making.create(fakes.world(world.database, tmp_path, per_volume_gigabytes=2), MEMBER, {"size": 3})


def test_a_type_nobody_knows_is_refused(world: World) -> None:
    with pytest.raises(BadRequest, match="fast"):
        volume_making.create(world, MEMBER, {"size": 1, "volume_type": "fast"})
    volume_making.create(world, MEMBER, {"size": 1, "volume_type": "local"})


def test_a_full_share_refuses_a_volume(world: World, tmp_path: Path) -> None:
    driver = Driver()
    driver.full = True
    with pytest.raises(ShareUnavailable):
        volume_making.create(fakes.world(world.database, tmp_path, driver), MEMBER, {"size": 1})


@pytest.mark.parametrize("status", ["available", "error", "error_deleting"])
def test_a_volume_that_nothing_uses_is_deleted(world: World, status: str) -> None:
    with world.database.write() as connection:
        volumes.change(connection, VOLUME, status=status)
    volume_making.delete(world, MEMBER, VOLUME)
    ((row,), (operation,)) = everything(world.database)
    assert row["status"] == "deleting"
    assert [step["verb"] for step in operation["plan"]] == ["check_unused", "remove_files"]
    assert operation["intent"]["status_before"] == status


@pytest.mark.parametrize("status", ["in-use", "reserved", "attaching", "creating", "deleting"])
def test_a_volume_in_use_is_not_deleted(world: World, status: str) -> None:
    with world.database.write() as connection:
        volumes.change(connection, VOLUME, status=status)
    with pytest.raises(BadRequest, match=status):
        volume_making.delete(world, MEMBER, VOLUME)
    assert everything(world.database)[1] == []


def test_a_volume_with_snapshots_is_not_deleted(world: World) -> None:
    with world.database.write() as connection:
        snapshot = builders.snapshot_row(connection)
    with pytest.raises(BadRequest, match="still has 1 snapshots") as told:
        volume_making.delete(world, MEMBER, VOLUME)
    assert told.value.details == {"snapshots": [snapshot["id"]]}


def test_a_volume_an_operation_holds_is_not_deleted(world: World) -> None:
    volume_making.delete(world, MEMBER, VOLUME)
    with pytest.raises((Conflict, BadRequest)):
        volume_making.delete(world, MEMBER, VOLUME)
    assert len(everything(world.database)[1]) == 1


def test_a_foreign_volume_is_answered_as_a_missing_one(world: World) -> None:
    who: Any = context(project="other")
    for wanted in (VOLUME, OTHER_VOLUME):
        for attempt in (
            lambda wanted=wanted: volume_making.delete(world, who, wanted),
            lambda wanted=wanted: volume_making.update(world, who, wanted, {"name": "x"}),
            lambda wanted=wanted: volume_making.set_metadata(world, who, wanted, {}, True),
        ):
            with pytest.raises(NotFound, match=f"Volume {wanted} could not be found"):
                attempt()


def test_metadata_is_merged_replaced_and_taken_away(world: World) -> None:
    volume_making.set_metadata(world, MEMBER, VOLUME, {"a": "1"}, replace=True)
    assert volume_making.set_metadata(world, MEMBER, VOLUME, {"b": "2"}, replace=False) == {"a": "1", "b": "2"}
    volume_making.delete_metadata_key(world, MEMBER, VOLUME, "a")
    with pytest.raises(NotFound, match="'a'"):
        volume_making.delete_metadata_key(world, MEMBER, VOLUME, "a")

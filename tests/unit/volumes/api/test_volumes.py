"""Volumes as clients read them, at every microversion that changes something, and as they ask for them."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from stillframe.db import attachments, volumes
from stillframe.db.engine import Database
from stillframe.db.values import NewAttachment, VolumeChanges
from stillframe.errors import BadRequest, Forbidden, NotFound
from stillframe.volumes.api import volumes as api
from stillframe.web import body
from stillframe.web.route import Call, Version
from tests.unit import builders
from tests.unit.builders import OTHER_VOLUME, SERVER, SET, VOLUME, Bus, context

FIELDS = {
    "group_id": (3, 13),
    "shared_targets": (3, 48),
    "service_uuid": (3, 48),
    "volume_type_id": (3, 63),
    "consumes_quota": (3, 65),
}


@pytest.fixture
def asked(database: Database, tmp_path: Path) -> Any:
    with database.write() as connection:
        builders.volume_row(connection, metadata={"k": "v"})

    def make(version: Version = (3, 0), *roles: str, **more: Any) -> Call:
        made = dict.fromkeys(("create_volume", "create_volume_from_image", "create_volume_from_backup"), VOLUME)
        api = builders.api(database, tmp_path, {**made, "set_volume_metadata": {"merged": "m"}})
        return builders.call(api, version, context(*roles), **{"path": {"id": VOLUME}, **more})

    return make


def shown(call: Call) -> dict[str, Any]:
    found: dict[str, Any] = api.show(call)["volume"]
    return found


@pytest.mark.parametrize(("name", "since"), FIELDS.items())
def test_a_field_is_shown_from_its_version_on(asked: Any, name: str, since: Version) -> None:
    assert name not in shown(asked((since[0], since[1] - 1)))
    assert name in shown(asked(since))
    assert name in shown(asked((3, 71)))


def test_a_volume_has_every_field_of_the_oldest_version(asked: Any) -> None:
    found = shown(asked())
    assert {key: value for key, value in found.items() if key not in ("created_at", "links", "volume_type")} == {
        "id": VOLUME,
        "status": "available",
        "size": 1,
        "availability_zone": "nova",
        "updated_at": None,
        "name": "data",
        "description": None,
        "snapshot_id": None,
        "source_volid": None,
        "metadata": {"k": "v"},
        "user_id": "somebody",
        "bootable": "false",
        "encrypted": False,
        "replication_status": None,
        "consistencygroup_id": None,
        "multiattach": False,
        "attachments": [],
        "os-vol-tenant-attr:tenant_id": "demo",
    }
    assert found["volume_type"] == "local"
    assert found["links"][1]["href"] == f"http://here/volumes/{VOLUME}"


@pytest.mark.parametrize(("role", "seen"), [("member", False), ("reader", False), ("admin", True), ("service", True)])
def test_where_a_volume_lies_is_shown_to_admins_and_the_service(asked: Any, role: str, seen: bool) -> None:
    found = shown(asked((3, 0), role))
    assert ("os-vol-host-attr:host" in found) is seen
    assert ("migration_status" in found) is seen


def test_what_a_volume_was_made_from_and_of_is_shown(asked: Any, database: Database) -> None:
    with database.write() as connection:
        values: VolumeChanges = {
            "snapshot_id": SET,
            "source_volid": OTHER_VOLUME,
            "bootable": True,
            "image_metadata": {"os": "x"},
        }
        volumes.change(connection, VOLUME, **values)
    found = shown(asked())
    assert (found["snapshot_id"], found["source_volid"], found["bootable"]) == (SET, OTHER_VOLUME, "true")
    assert found["volume_image_metadata"] == {"os": "x"}


@pytest.mark.parametrize("query", [{}, {"cascade": "false"}, {"cascade": "TRUE"}, {"cascade": "1"}])
def test_snapshots_go_with_a_volume_only_when_that_is_asked(asked: Any, query: dict[str, str]) -> None:
    call = asked(query=query)
    api.delete(call)
    cascade = query.get("cascade") in ("TRUE", "1")
    assert call.api.bus.asked == [("delete_volume", {"volume_id": VOLUME, "cascade": cascade, "force": False})]


def test_force_is_for_administrators(asked: Any) -> None:
    with pytest.raises(Forbidden):
        api.delete(asked(query={"force": "true"}))
    call = asked((3, 0), "admin", query={"force": "true"})
    api.delete(call)
    assert call.api.bus.asked[0][1]["force"] is True


def test_a_fault_is_shown_when_there_is_one(asked: Any, database: Database) -> None:
    assert "fault" not in shown(asked(additions=True))
    with database.write() as connection:
        volumes.change(connection, VOLUME, fault="the share is full")
    assert shown(asked(additions=True))["fault"] == "the share is full"
    assert "fault" not in shown(asked())


def test_a_volume_that_is_made_or_changed_is_shown_with_fewer_keys(asked: Any, database: Database) -> None:
    with database.write() as connection:
        volumes.change(connection, VOLUME, image_metadata={"os": "x"})
    whole = set(shown(asked((3, 71), "admin")))
    for answer in (
        api.create(asked((3, 71), "admin", body={"volume": {"size": 1}})),
        api.update(asked((3, 71), "admin", body={"volume": {"name": "n"}})),
    ):
        missing = whole - set(answer["volume"])
        assert {name for name in missing if not name.startswith("os-vol-")} == {"volume_image_metadata"}
        assert len(missing) == 5


def test_only_attachments_that_are_complete_are_shown(asked: Any, database: Database) -> None:
    moment = datetime(2024, 1, 2, 3, 4, 5)
    row: NewAttachment = {
        "id": SET,
        "project_id": "demo",
        "volume_id": VOLUME,
        "instance_id": SERVER,
        "status": "attaching",
        "mode": "rw",
        "connector": {"host": "h", "mountpoint": "/dev/vdb"},
        "attached_at": moment,
    }
    with database.write() as connection:
        attachments.insert(connection, row)
    assert shown(asked())["attachments"] == []
    with database.write() as connection:
        attachments.change(connection, SET, status="attached")
    assert shown(asked())["attachments"] == [
        {
            "id": VOLUME,
            "attachment_id": SET,
            "volume_id": VOLUME,
            "server_id": SERVER,
            "host_name": None,
            "device": "/dev/vdb",
            "attached_at": "2024-01-02T03:04:05.000000",
        }
    ]


def test_where_a_volume_is_attached_is_for_services_and_administrators(asked: Any, database: Database) -> None:
    row: NewAttachment = {"id": SET, "project_id": "demo", "volume_id": VOLUME, "status": "attached", "mode": "rw"}
    with database.write() as connection:
        attachments.insert(connection, {**row, "instance_id": SERVER, "connector": {"host": "kvm-7"}})
    for roles in (("member", "reader"), ("reader",)):
        assert "kvm-7" not in str(shown(asked((3, 71), *roles)))
    for role in ("admin", "service"):
        assert shown(asked((3, 71), role))["attachments"][0]["host_name"] == "kvm-7"


def test_times_are_written_with_microseconds() -> None:
    assert api.stamp(datetime(2024, 1, 2)) == "2024-01-02T00:00:00.000000"
    assert api.stamp(None) is None


def test_a_count_is_told_from_its_version_on(asked: Any) -> None:
    for detail in (api.list_brief, api.list_detail):
        assert "count" not in detail(asked((3, 44), query={"with_count": "true"}))
        assert "count" not in detail(asked((3, 45), query={}))
        assert detail(asked((3, 45), query={"with_count": "True", "limit": "0"}))["count"] == 1
        assert detail(asked((3, 45), query={"with_count": "true", "name": "x"}))["count"] == 0


def test_a_volume_that_is_not_there_is_not_found_however_its_id_looks(asked: Any) -> None:
    for wanted in (OTHER_VOLUME, "x", "x" * 5000):
        with pytest.raises(NotFound):
            api.show(asked(path={"id": wanted}))


def created(asked: Any, **volume: Any) -> dict[str, Any]:
    """Checks a body against the schema and returns what the worker is asked for."""
    document = {"volume": volume}
    body.check(document, api._CREATE)
    call = asked(body=document)
    api.create(call)
    bus: Bus = call.api.bus
    ((_, parameters),) = bus.asked
    found: dict[str, Any] = parameters["wanted"]
    return found


@pytest.mark.parametrize(("size", "gigabytes"), [(1, 1), ("1", 1), ("0010", 10), (2.0, 2)])
def test_a_size_may_be_a_number_or_its_digits(asked: Any, size: Any, gigabytes: int) -> None:
    found = created(asked, size=size)["size"]
    assert (found, type(found)) == (gigabytes, int)


@pytest.mark.parametrize("size", [0, -1, "0", "-1", "1.5", 1.5, "", "x", True, [], 1 << 31, "9999999999", "\u0661"])
def test_a_size_that_is_none_is_refused(asked: Any, size: Any) -> None:
    with pytest.raises(BadRequest):
        created(asked, size=size)


def test_a_size_may_be_missing_because_the_source_has_one(asked: Any) -> None:
    assert "size" not in created(asked, size=None, source_volid=OTHER_VOLUME)


def test_the_old_word_for_a_name_is_understood_and_the_new_one_wins(asked: Any) -> None:
    assert created(asked, size=1, display_name="old")["name"] == "old"
    found = created(asked, size=1, display_name="old", name="new")
    assert found["name"] == "new"
    assert "display_name" not in found


@pytest.mark.parametrize(
    ("source", "method"),
    [
        ("snapshot_id", "create_volume"),
        ("source_volid", "create_volume"),
        ("imageRef", "create_volume_from_image"),
        ("image_id", "create_volume_from_image"),
        ("backup_id", "create_volume_from_backup"),
    ],
)
def test_a_source_decides_who_makes_the_volume(asked: Any, source: str, method: str) -> None:
    call = asked(body={"volume": {"size": 1, source: OTHER_VOLUME, "name": None}})
    api.create(call)
    name = "imageRef" if source == "image_id" else source
    assert call.api.bus.asked == [(method, {"wanted": {"size": 1, name: OTHER_VOLUME}})]
    assert source not in created(asked, size=1, **{source: None})


@pytest.mark.parametrize("sources", [("snapshot_id", "source_volid"), ("imageRef", "backup_id"), ("image_id", "snapshot_id")])
def test_a_volume_has_one_source(asked: Any, sources: tuple[str, str]) -> None:
    with pytest.raises(BadRequest, match="one source at most"):
        created(asked, size=1, **dict.fromkeys(sources, OTHER_VOLUME))


def test_a_volume_is_in_no_consistency_group(asked: Any) -> None:
    with pytest.raises(BadRequest, match="consistencygroup_id"):
        created(asked, size=1, consistencygroup_id=OTHER_VOLUME)
    assert "consistencygroup_id" not in created(asked, size=1, consistencygroup_id=None)


def test_a_volume_for_several_servers_is_refused(asked: Any) -> None:
    with pytest.raises(BadRequest, match="multiattach"):
        created(asked, size=1, multiattach=True)
    assert "multiattach" not in created(asked, size=1, multiattach=False)


def test_an_update_without_metadata_leaves_it_alone(asked: Any) -> None:
    call = asked(body={"volume": {"name": None, "metadata": None}})
    api.update(call)
    assert call.api.bus.asked == [("update_volume", {"volume_id": VOLUME, "changes": {"name": None}})]


@pytest.mark.parametrize("volume", [{}, {"size": 2}, {"name": "n", "status": "error"}])
def test_an_update_of_nothing_or_of_more_is_refused(volume: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        body.check({"volume": volume}, api._UPDATES[-1][1])


@pytest.mark.parametrize(("handler", "replace"), [(api.set_metadata, False), (api.replace_metadata, True)])
def test_metadata_is_merged_by_post_and_replaced_by_put(asked: Any, handler: Any, replace: bool) -> None:
    call = asked(body={"metadata": {"a": "b"}})
    assert handler(call) == {"metadata": {"merged": "m"}}
    wanted = {"volume_id": VOLUME, "metadata": {"a": "b"}, "replace": replace}
    assert call.api.bus.asked == [("set_volume_metadata", wanted)]


def test_one_key_of_metadata_is_shown_and_set_by_its_name(asked: Any) -> None:
    key = {"id": VOLUME, "key": "k"}
    assert api.show_metadata_key(asked(path=key)) == {"meta": {"k": "v"}}
    assert api.set_metadata_key(asked(path=key, body={"meta": {"k": "w"}})) == {"meta": {"k": "w"}}
    with pytest.raises(BadRequest, match="not the one in the path"):
        api.set_metadata_key(asked(path=key, body={"meta": {"other": "w"}}))
    with pytest.raises(NotFound):
        api.show_metadata_key(asked(path={"id": VOLUME, "key": "other"}))


def test_the_summary_counts_the_projects_own(asked: Any, database: Database) -> None:
    with database.write() as connection:
        builders.volume_row(connection, id=OTHER_VOLUME, project_id="other", size=7)
    assert api.summary(asked())["volume-summary"] == {"total_count": 1, "total_size": 1}

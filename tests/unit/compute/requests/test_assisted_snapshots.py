"""Requests about sets: what a policy adds to them, deep chains, and whose sets a policy may delete."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillframe.chain.image import Chain, Image
from stillframe.chain.names import overlay_name
from stillframe.compute.libvirt import chain_depth
from stillframe.compute.requests import assisted_snapshot_costs, assisted_snapshot_deletions, assisted_snapshot_labels
from stillframe.compute.requests import assisted_snapshots as assisted_snapshot_requests
from stillframe.compute.worker.context import WorkerContext
from stillframe.context import Context
from stillframe.db import assisted_snapshots, finished, operations
from stillframe.db.engine import Database
from stillframe.db.queries import Page
from stillframe.errors import (
    BadRequest,
    Busy,
    ChainConflict,
    Conflict,
    NotFound,
    NotSound,
    ServiceUnavailable,
    ShareUnavailable,
)
from stillframe.host import files, hypervisor, qemu_img, soundness
from tests.unit.builders import GIB, OTHER_VOLUME, SERVER, SET, SHARE, VOLUME, context, new_id
from tests.unit.compute import fakes

POLICY = "8b8b8b8b-8888-4888-8888-888888888888"
ASKED: dict[str, Any] = {"volumes": "all", "quiesce": "preferred"}


def chain_of(count: int) -> Chain:
    """The base and ``count - 1`` overlays."""
    images = [Image(f"volume-{VOLUME}", "qcow2", GIB)]
    for _ in range(count - 1):
        images.append(Image(overlay_name(VOLUME, new_id()), "qcow2", GIB, images[-1].name, "qcow2"))
    return Chain(VOLUME, tuple(images))


class Storage(fakes.Storage):
    """Knows every snapshot; ``stays`` says why one cannot be deleted, or what is answered instead."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.stays: dict[str, dict[str, Any] | Exception] = {}
        self.statuses: dict[str, str | None] = {}
        self.owner = "demo"

    def snapshot(self, snapshot_id: str) -> dict[str, Any] | None:
        status = self.statuses.get(snapshot_id, "available")
        owner = {"os-extended-snapshot-attributes:project_id": self.owner}
        return {"id": snapshot_id, "status": status, **owner} if status else None

    def explain_deletion(self, snapshot_id: str) -> dict[str, Any]:
        found = self.stays.get(snapshot_id)
        if isinstance(found, Exception):
            raise found
        told = {"possible": found is None, "busy": None, "method": None, "why": "1 linked volumes read it"}
        return told if found is None else told | found


def worker_of(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int = 1) -> WorkerContext:
    """One stopped server, whose only volume has a chain of ``count`` files."""
    chain = chain_of(count)
    monkeypatch.setattr(qemu_img, "read_chain", lambda *_arguments: chain)
    monkeypatch.setattr(soundness, "refuse_beyond_repair", lambda *_arguments: None)
    monkeypatch.setattr(files, "free_bytes", lambda _share: 100 * GIB)
    info = {"driver_volume_type": "local", "export": SHARE, "name": chain.active.name}
    volume = {"id": VOLUME, "name": "data", "size": 1, "os-vol-tenant-attr:tenant_id": "demo", "status": "in-use"}
    storage = Storage([{"volume_id": VOLUME, "connection_info": info}], {VOLUME: volume})
    xml = fakes.domain_xml(fakes.disk_xml("vda", f"{SHARE}/{chain.active.name}", VOLUME))
    return fakes.worker(database, tmp_path, [fakes.view(xml, active=False)], monkeypatch, storage)


@pytest.fixture
def make(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], WorkerContext]:
    """Makes a world with one stopped server, whose only volume has a chain of that many files."""

    def made(count: int) -> WorkerContext:
        return worker_of(database, tmp_path, monkeypatch, count)

    return made


def row_of(worker: WorkerContext, set_id: str) -> Any:
    with worker.database.read() as connection:
        found = assisted_snapshots.get(connection, set_id, None)
    assert found is not None
    return found


def taken(worker: WorkerContext, **more: Any) -> Any:
    return row_of(worker, assisted_snapshot_requests.create(worker, context(), SERVER, {**ASKED, **more}))


@pytest.mark.parametrize(("count", "warns"), [(1, False), (31, False), (32, True), (63, True)])
def test_a_set_of_a_deep_chain_warns(make: Callable[[int], WorkerContext], count: int, warns: bool) -> None:
    warnings = taken(make(count))["warnings"]
    if not warns:
        assert warnings is None
        return
    assert len(warnings) == 1
    assert all(word in warnings[0] for word in (VOLUME, f"has {count} files", "from 32 on", "at 64", "delete old ones"))


def test_the_log_warns_too(make: Callable[[int], WorkerContext], caplog: pytest.LogCaptureFixture) -> None:
    found = taken(make(40))
    assert found["warnings"][0] in caplog.text


def test_a_raw_volume_is_in_a_set_and_its_overlay_says_what_is_below(
    make: Callable[[int], WorkerContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = raw_volume(make(1), monkeypatch, recorded="raw")
    row = taken(worker)
    with worker.database.read() as connection:
        (operation,) = operations.unfinished(connection, "compute")
    (disk,) = operation["intent"]["disks"]
    assert (disk["format"], disk["size"], row["excluded_disks"]) == ("raw", GIB, [])


def test_a_volume_that_a_server_has_as_another_format_is_in_no_set(
    make: Callable[[int], WorkerContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ChainConflict, match="as raw, but block storage records qcow2"):
        taken(raw_volume(make(1), monkeypatch, recorded="qcow2"))


def raw_volume(worker: WorkerContext, monkeypatch: pytest.MonkeyPatch, recorded: str) -> WorkerContext:
    """The server has the volume as a raw file, of no whole sectors."""
    (seen,) = hypervisor.list_domains(worker.hypervisor)
    changed = replace(seen, xml=seen.xml.replace('type="qcow2"', 'type="raw"'))
    monkeypatch.setattr(hypervisor, "find", lambda *_: changed)
    base = Chain(VOLUME, (Image(f"volume-{VOLUME}", "raw", GIB - 100),))
    monkeypatch.setattr(qemu_img, "read_chain", lambda *_arguments: base)
    storage: Any = worker.storage
    storage.attachments[0]["connection_info"]["format"] = recorded
    return worker


def test_at_the_hard_limit_nothing_is_taken(make: Callable[[int], WorkerContext]) -> None:
    worker = make(64)
    with pytest.raises(
        Conflict, match="has 64 files in its chain, the most allowed is 64; delete a snapshot that is not needed"
    ):
        assisted_snapshot_requests.create(worker, context(), SERVER, ASKED)
    with worker.database.read() as connection:
        assert assisted_snapshots.list_page(connection, None, Page()) == []


def test_what_is_not_sound_beyond_repair_becomes_no_base(
    make: Callable[[int], WorkerContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make(1)

    def refuse(_share: Path, name: str, _format: str) -> None:
        raise NotSound(f"{name} is damaged")

    monkeypatch.setattr(soundness, "refuse_beyond_repair", refuse)
    with pytest.raises(NotSound, match="is damaged"):
        assisted_snapshot_requests.create(worker, context(), SERVER, ASKED)
    with worker.database.read() as connection:
        assert assisted_snapshots.list_page(connection, None, Page()) == []


def test_a_users_set_is_of_no_policy_and_a_policys_set_has_the_id_it_gave(make: Callable[[int], WorkerContext]) -> None:
    worker = make(1)
    assert taken(worker, policy_id=POLICY, set_id=SET)["policy_id"] == POLICY
    with worker.database.write() as connection:
        finished.ended(connection, SET)
    mine = taken(worker)
    assert mine["policy_id"] is None
    assert mine["id"] != SET


def test_a_set_with_an_id_that_is_known_is_that_set(make: Callable[[int], WorkerContext]) -> None:
    worker = make(1)
    first = taken(worker, policy_id=POLICY, set_id=SET)
    with worker.database.write() as connection:
        finished.ended(connection, SET)
    assert taken(worker, policy_id=POLICY, set_id=SET, name="another") == first
    with worker.database.read() as connection:
        assert len(assisted_snapshots.list_page(connection, None, Page())) == 1


def test_two_that_make_the_same_set_at_once_make_one(
    make: Callable[[int], WorkerContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, real = make(1), assisted_snapshot_requests._choose

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(assisted_snapshot_requests, "_choose", real)
        assisted_snapshot_requests.create(worker, context(), SERVER, {**ASKED, "set_id": SET, "policy_id": POLICY})
        return real(*arguments)

    monkeypatch.setattr(assisted_snapshot_requests, "_choose", meanwhile)
    assert taken(worker, set_id=SET, policy_id=POLICY)["id"] == SET
    with worker.database.read() as connection:
        assert len(assisted_snapshots.list_page(connection, None, Page())) == 1


def stored(worker: WorkerContext, **changes: Any) -> str:
    row: Any = {
        "id": new_id(),
        "project_id": "demo",
        "user_id": "u",
        "server_id": SERVER,
        "metadata": {},
        "status": "available",
        "progress": 100,
        "quiesce": "preferred",
        "volumes": [{"volume_id": VOLUME, "snapshot_id": new_id()}],
        "excluded_disks": [],
        "policy_id": POLICY,
        **changes,
    }
    with worker.database.write() as connection:
        assisted_snapshots.insert(connection, row)
    return str(row["id"])


def test_a_policys_deletion_says_when_it_first_let_the_set_go(make: Callable[[int], WorkerContext]) -> None:
    worker = make(1)
    set_id = stored(worker)
    assisted_snapshot_deletions.delete(worker, context(), SERVER, set_id, POLICY)
    first = row_of(worker, set_id)
    assert (first["status"], first["retired_at"] is not None) == ("deleting", True)
    with worker.database.write() as connection:
        assisted_snapshots.change(connection, set_id, status="error")
        for row in operations.unfinished(connection, "compute"):
            finished.ended(connection, row["id"])
    assisted_snapshot_deletions.delete(worker, context(), SERVER, set_id, POLICY)
    assert row_of(worker, set_id)["retired_at"] == first["retired_at"]


def test_a_users_deletion_asks_for_no_label_and_retires_nothing(make: Callable[[int], WorkerContext]) -> None:
    worker = make(1)
    set_id = stored(worker, metadata={"keep": "true"})
    assisted_snapshot_deletions.delete(worker, context(), SERVER, set_id)
    assert (row_of(worker, set_id)["status"], row_of(worker, set_id)["retired_at"]) == ("deleting", None)


@pytest.mark.parametrize("changes", [{"metadata": {"keep": ""}}, {"policy_id": None}, {"policy_id": SERVER}], ids=str)
def test_a_set_that_is_not_the_policys_to_delete_stays(make: Callable[[int], WorkerContext], changes: dict[str, Any]) -> None:
    worker = make(1)
    set_id = stored(worker, **changes)
    with pytest.raises(Conflict, match="not for policy"):
        assisted_snapshot_deletions.delete(worker, context(), SERVER, set_id, POLICY)
    assert row_of(worker, set_id)["status"] == "available"
    with worker.database.read() as connection:
        assert operations.unfinished(connection, "compute") == []


def test_a_label_of_the_last_moment_counts(make: Callable[[int], WorkerContext], monkeypatch: pytest.MonkeyPatch) -> None:
    worker = make(1)
    set_id = stored(worker)
    real = Storage.snapshot

    def label_then_answer(self: Storage, snapshot_id: str) -> dict[str, Any] | None:
        assisted_snapshot_labels.change(worker, context(), set_id, {"metadata": {"keep": "true"}})
        return real(self, snapshot_id)

    monkeypatch.setattr(Storage, "snapshot", label_then_answer)
    with pytest.raises(Conflict, match="labelled"):
        assisted_snapshot_deletions.delete(worker, context(), SERVER, set_id, POLICY)
    assert row_of(worker, set_id)["status"] == "available"


# Labels


def test_a_label_changes_what_is_named_and_no_more(make: Callable[[int], WorkerContext]) -> None:
    worker = make(1)
    set_id = stored(worker, name="n", description="d", metadata={"a": "b"})
    before = row_of(worker, set_id)
    assisted_snapshot_labels.change(worker, context(), set_id, {"metadata": {"keep": "true"}})
    after = row_of(worker, set_id)
    assert after == {**before, "metadata": {"keep": "true"}, "updated_at": after["updated_at"]}


@pytest.mark.parametrize("who", [context(project="other"), context("reader", project="other")])
def test_another_projects_set_is_not_labelled(make: Callable[[int], WorkerContext], who: Context) -> None:
    worker = make(1)
    set_id = stored(worker)
    with pytest.raises(NotFound):
        assisted_snapshot_labels.change(worker, who, set_id, {"metadata": {"keep": "true"}})
    assert row_of(worker, set_id)["metadata"] == {}


def test_a_set_that_is_being_deleted_cannot_be_labelled(make: Callable[[int], WorkerContext]) -> None:
    worker = make(1)
    set_id = stored(worker, status="deleting")
    with pytest.raises(Conflict, match="cannot be changed any more"):
        assisted_snapshot_labels.change(worker, context(), set_id, {"metadata": {"keep": "true"}})


# Depth


@pytest.mark.parametrize(("count", "found"), [(31, {}), (32, {VOLUME: 32}), (40, {VOLUME: 40})])
def test_volumes_at_the_soft_limit_are_found(make: Callable[[int], WorkerContext], count: int, found: dict[str, int]) -> None:
    assert chain_depth.deep_volumes(make(count), SERVER) == found


def test_block_storage_says_what_is_deep(make: Callable[[int], WorkerContext]) -> None:
    worker = make(5)
    (attached,) = worker.storage.attachments  # type: ignore[attr-defined]
    attached["connection_info"]["chain_limits"] = {"chain_depth_warning": 5, "max_chain_depth": 6}
    assert chain_depth.deep_volumes(worker, SERVER) == {VOLUME: 5}
    for limits, kind, told in (
        ({"max_chain_depth": 5}, Conflict, "has 5 files in its chain, the most allowed is 5"),
        ({"minimum_free_mib": 1 << 40}, ShareUnavailable, f"less than {1 << 40} MiB are free"),
    ):
        attached["connection_info"]["chain_limits"] = limits
        with pytest.raises(kind, match=told):
            taken(worker)
    attached["connection_info"]["chain_limits"] = {"chain_depth_warning": 5, "max_chain_depth": 6}
    (warning,) = taken(worker)["warnings"]
    assert "from 5 on" in warning and "at 6 snapshots" in warning


def test_disks_that_are_no_volumes_of_the_server_are_not_looked_at(make: Callable[[int], WorkerContext]) -> None:
    worker = make(40)
    worker.storage.attachments = []  # type: ignore[attr-defined]
    assert chain_depth.deep_volumes(worker, SERVER) == {}
    with pytest.raises(NotFound):
        chain_depth.deep_volumes(worker, VOLUME)


CDROM = '<disk type="file" device="cdrom"><target dev="sdz" bus="sata"/></disk>'
LUN = '<disk type="block" device="lun"><source dev="/dev/sdx"/><target dev="sda" bus="scsi"/></disk>'
GONE_AT_THE_END = "a transient disk: what the guest writes to it is thrown away when the server stops"


def with_disks(worker: WorkerContext, monkeypatch: pytest.MonkeyPatch, *disks: str, active: bool = True) -> WorkerContext:
    (seen,) = hypervisor.list_domains(worker.hypervisor)
    changed = replace(
        seen, xml=seen.xml.replace("</devices>", "".join(disks) + "</devices>"), active=active, state=1 if active else 5
    )
    monkeypatch.setattr(hypervisor, "find", lambda *_: changed)
    monkeypatch.setattr(files, "is_locked", lambda *_: True)
    return worker


def transient(volume: str) -> str:
    file = f"{SHARE}/volume-{volume}.TRANSIENT-guest"
    return fakes.disk_xml("vdb", file, volume).replace("</disk>", "<transient/></disk>")


def test_every_disk_that_holds_data_and_is_not_in_a_set_is_named(
    make: Callable[[int], WorkerContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = taken(with_disks(make(1), monkeypatch, CDROM, LUN))
    assert row["excluded_disks"] == [{"device": "/dev/sda", "reason": "not a volume of block storage"}]


@pytest.mark.parametrize(
    ("info", "why"),
    [({"name": f"volume-{OTHER_VOLUME}"}, "has no such disk now"), ({}, "is still being attached")],
    ids=["unplugged", "being attached"],
)
def test_an_attached_volume_that_the_guest_lacks_is_named(
    make: Callable[[int], WorkerContext], info: dict[str, Any], why: str
) -> None:
    worker = make(1)
    storage: Any = worker.storage
    storage.attachments.append({"volume_id": OTHER_VOLUME, "connection_info": info})
    with pytest.raises(BadRequest, match=why):
        assisted_snapshot_requests.create(worker, context(), SERVER, {**ASKED, "volumes": [OTHER_VOLUME]})
    (left_out,) = taken(worker)["excluded_disks"]
    assert (left_out["device"], left_out["volume_id"]) == ("none", OTHER_VOLUME)
    assert why in left_out["reason"]


def test_a_transient_disk_is_left_out_and_told(make: Callable[[int], WorkerContext], monkeypatch: pytest.MonkeyPatch) -> None:
    worker = with_disks(make(1), monkeypatch, transient(OTHER_VOLUME))
    storage: Any = worker.storage
    storage.attachments.append({"volume_id": OTHER_VOLUME, "connection_info": {"name": f"volume-{OTHER_VOLUME}"}})
    with pytest.raises(BadRequest, match=GONE_AT_THE_END):
        assisted_snapshot_requests.create(worker, context(), SERVER, {**ASKED, "volumes": [OTHER_VOLUME]})
    assert taken(worker)["excluded_disks"] == [{"device": "/dev/vdb", "reason": GONE_AT_THE_END}]


def test_a_set_leaves_what_its_project_gave_away_alone(make: Callable[[int], WorkerContext]) -> None:
    """A volume with its snapshots can be transferred to another project, and the set still names them."""
    worker = make(1)
    storage, snapshot_id = known_set(worker)
    storage.owner = "another project"
    storage.stays[snapshot_id] = Conflict("what is behind it is none of the set's project's business")
    told = assisted_snapshot_costs.explain_deletion(worker, context(), SERVER, SET)
    assert (told["volumes"], told["possible"]) == ([], True)
    assisted_snapshot_deletions.delete(worker, context(), SERVER, SET)
    with worker.database.read() as connection:
        asked = operations.on_resource(connection, f"set:{SET}")
    assert asked is not None and asked["plan"][0]["args"]["snapshot_ids"] == []


LATER = [{"busy": SET}, {"method": "block pull"}, Busy("a merge"), ServiceUnavailable("away"), NotFound("gone meanwhile")]


def known_set(worker: WorkerContext, status: str = "available") -> tuple[Any, str]:
    """Ends a set of one volume; returns block storage's door and the snapshot's id."""
    row = taken(worker, policy_id=POLICY, set_id=SET)
    with worker.database.write() as connection:
        finished.ended(connection, SET)
        assisted_snapshots.change(connection, SET, status=status, fault="not all snapshots were deleted")
    return worker.storage, row["volumes"][0]["snapshot_id"]


@pytest.mark.parametrize("stays", [{}, Conflict("1 linked volumes read it")])
def test_a_deletion_that_cannot_succeed_is_refused_with_nothing_changed(
    make: Callable[[int], WorkerContext], stays: Any
) -> None:
    worker = make(1)
    storage, snapshot_id = known_set(worker)
    storage.stays[snapshot_id] = stays
    before = row_of(worker, SET)
    with pytest.raises(Conflict, match=f"nothing of it was changed: snapshot {snapshot_id}: 1 linked volumes read it"):
        assisted_snapshot_deletions.delete(worker, context(), SERVER, SET)
    assert row_of(worker, SET) == before


@pytest.mark.parametrize("answer", [None, *LATER])
def test_what_may_pass_keeps_no_deletion_from_beginning(make: Callable[[int], WorkerContext], answer: Any) -> None:
    worker = make(1)
    storage, snapshot_id = known_set(worker)
    storage.stays[snapshot_id] = answer
    assisted_snapshot_deletions.delete(worker, context(), SERVER, SET)
    assert row_of(worker, SET)["status"] == "deleting"


def test_a_set_whose_snapshots_are_good_is_set_to_available(make: Callable[[int], WorkerContext]) -> None:
    worker = make(1)
    _, snapshot_id = known_set(worker, "error")
    assisted_snapshot_labels.reset_status(worker, context("admin"), SET, "available")
    found = row_of(worker, SET)
    assert (found["status"], found["fault"], found["progress"]) == ("available", None, 100)
    assert [(each["snapshot_id"], each["status"]) for each in found["volumes"]] == [(snapshot_id, "available")]


@pytest.mark.parametrize(("status", "told"), [(None, "gone"), ("error", "error"), ("error_deleting", "error_deleting")])
def test_a_set_whose_snapshots_are_not_good_is_not(make: Callable[[int], WorkerContext], status: str | None, told: str) -> None:
    worker = make(1)
    storage, snapshot_id = known_set(worker, "error")
    storage.statuses[snapshot_id] = status
    before = row_of(worker, SET)
    with pytest.raises(Conflict, match=f"snapshot {snapshot_id} is {told}"):
        assisted_snapshot_labels.reset_status(worker, context("admin"), SET, "available")
    assert row_of(worker, SET) == before


def test_the_status_of_a_set_that_is_being_deleted_is_left_alone(make: Callable[[int], WorkerContext]) -> None:
    worker = make(1)
    known_set(worker)
    assisted_snapshot_deletions.delete(worker, context(), SERVER, SET)
    for status in ("available", "error"):
        with pytest.raises(Busy):
            assisted_snapshot_labels.reset_status(worker, context("admin"), SET, status)

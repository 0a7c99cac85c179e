"""Every operation, stopped with SIGKILL at every step, then taken up again by a new process.

After each: the operation has ended as its direction says, every chain opens, rows, descriptions and headers agree, no
file lies about, the guest is thawed and writes on, and every snapshot holds what it held.
"""

from collections.abc import Iterator

import pytest

from stillframe.chain.image import Image
from stillframe.chain.names import base_name, overlay_name
from stillframe.host import copies, publish, qcow2
from stillframe.host.copies import Source
from tests.crash.places import Place, all_kinds_have_a_sample, places
from tests.support.content import DiskContent
from tests.support.lab import Lab, open_lab
from tests.support.stack import wait_for


def at(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("place", [place for kind in kinds for place in places(kind)], ids=str)


def journal_is_empty(lab: Lab) -> bool:
    from stillframe.db import operations
    from stillframe.db.engine import Database

    database = Database(f"sqlite:///{lab.stack.state_dir}/stillframe.sqlite")
    with database.read() as connection:
        rows = [row for service in ("volumes", "compute") for row in operations.unfinished(connection, service)]
    database.close()
    assert [row["fault"] for row in rows if row["state"] == "parked"] == []
    return not rows


def recover(lab: Lab) -> None:
    """The process has died at its failpoint: starts another one and waits until the journal has nothing left to do."""
    lab.stack.wait_killed()
    lab.stack.start()
    wait_for(lambda: journal_is_empty(lab), "the recovery", 60)


def restart(lab: Lab, place: Place) -> None:
    if not lab.stack.running:  # the test before failed half-way
        lab.stack.start()
    wait_for(lambda: journal_is_empty(lab), "the operations before")
    lab.stack.kill()
    lab.stack.start(place.failpoint)


def test_every_kind_of_operation_is_stopped_somewhere() -> None:
    assert all_kinds_have_a_sample()


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = open_lab(tmp_path_factory.mktemp("offline"))
    yield made
    made.clear()


@at("create_volume")
def test_create_volume(offline: Lab, place: Place) -> None:
    restart(offline, place)
    body = {"volume": {"name": str(place)[:200], "size": 1}}
    volume_id = offline.api.ok("volume", "POST", "/volumes", body)["volume"]["id"]
    recover(offline)
    assert offline.api.volume(volume_id)["status"] == ("error" if place.back else "available")
    offline.check_sound()


@at("delete_volume")
def test_delete_volume(offline: Lab, place: Place) -> None:
    volume_id = offline.api.create_volume()
    restart(offline, place)
    offline.api.ok("volume", "DELETE", f"/volumes/{volume_id}")
    recover(offline)
    assert offline.api.send("volume", "GET", f"/volumes/{volume_id}").status_code == 404
    offline.check_sound()


def write_something(lab: Lab, volume_id: str, text: bytes) -> None:
    """Puts content into a detached volume's active file, through QEMU."""
    from tests.support.qemu_io import write

    info = lab.stack.share / f"volume-{volume_id}.info"
    active = __import__("json").loads(info.read_text())["active"] if info.exists() else base_name(volume_id)
    write(lab.stack.share, active, text)


def content(lab: Lab, name: str) -> bytes:
    target = lab.directory / "flat.raw"
    target.unlink(missing_ok=True)
    copies.copy_out(Source(name, "qcow2", 8), lab.stack.share, target, "raw", False)
    with target.open("rb") as flat:
        return flat.read(1 << 20)  # nothing was written beyond


def snapshot_offline(lab: Lab, volume_id: str) -> str:
    made = lab.api.ok("volume", "POST", "/snapshots", {"snapshot": {"volume_id": volume_id}})["snapshot"]["id"]
    wait_for(lambda: lab.api.snapshot(made)["status"] == "available", "the snapshot")
    return str(made)


@at("create_snapshot")
def test_create_snapshot(offline: Lab, place: Place) -> None:
    volume_id = offline.api.create_volume()
    write_something(offline, volume_id, b"before the snapshot")
    held = content(offline, base_name(volume_id))
    restart(offline, place)
    body = {"snapshot": {"volume_id": volume_id}}
    snapshot_id = offline.api.ok("volume", "POST", "/snapshots", body)["snapshot"]["id"]
    recover(offline)
    assert offline.api.snapshot(snapshot_id)["status"] == ("error" if place.back else "available")
    write_something(offline, volume_id, b"after it, longer than before")
    if not place.back:
        assert content(offline, base_name(volume_id)) == held
        assert content(offline, overlay_name(volume_id, snapshot_id)) != held
    offline.check_sound()


@at("delete_snapshot")
def test_delete_snapshot(offline: Lab, place: Place) -> None:
    volume_id = offline.api.create_volume()
    write_something(offline, volume_id, b"one")
    first = snapshot_offline(offline, volume_id)
    older = content(offline, base_name(volume_id))
    write_something(offline, volume_id, b"two, and more")
    second = snapshot_offline(offline, volume_id)
    write_something(offline, volume_id, b"three, and still more")
    active = content(offline, overlay_name(volume_id, second))
    restart(offline, place)
    offline.api.ok("volume", "DELETE", f"/snapshots/{second}")
    recover(offline)
    assert offline.api.send("volume", "GET", f"/snapshots/{second}").status_code == 404
    assert offline.api.snapshot(first)["status"] == "available"
    assert content(offline, base_name(volume_id)) == older
    assert content(offline, overlay_name(volume_id, first)) == active
    offline.check_sound()


@at("delete_snapshot up")
def test_delete_snapshot_upwards(offline: Lab, place: Place) -> None:
    """The base holds least, so it goes up into the overlay, which gets its name."""
    volume_id = offline.api.create_volume()
    write_something(offline, volume_id, b"small")
    only = snapshot_offline(offline, volume_id)
    write_something(offline, volume_id, b"much " * 100_000)
    wanted = content(offline, overlay_name(volume_id, only))
    restart(offline, place)
    offline.api.ok("volume", "DELETE", f"/snapshots/{only}")
    recover(offline)
    assert offline.api.send("volume", "GET", f"/snapshots/{only}").status_code == 404
    assert content(offline, base_name(volume_id)) == wanted
    offline.check_sound()


@at("revert_volume")
def test_revert_volume(offline: Lab, place: Place) -> None:
    volume_id = offline.api.create_volume()
    write_something(offline, volume_id, b"before the snapshot")
    only = snapshot_offline(offline, volume_id)
    held = content(offline, base_name(volume_id))
    write_something(offline, volume_id, b"after it")
    later = content(offline, overlay_name(volume_id, only))
    restart(offline, place)
    offline.api.ok("volume", "POST", f"/volumes/{volume_id}/action", {"revert": {"snapshot_id": only}})
    recover(offline)
    assert offline.api.volume(volume_id)["status"] == "available"
    assert content(offline, active_of(offline, volume_id)) == (later if place.back else held)
    assert content(offline, base_name(volume_id)) == held
    offline.check_sound()


@at("extend_volume")
def test_extend_volume(offline: Lab, place: Place) -> None:
    volume_id = offline.api.create_volume()
    write_something(offline, volume_id, b"kept")
    held = content(offline, base_name(volume_id))
    restart(offline, place)
    offline.api.ok("volume", "POST", f"/volumes/{volume_id}/action", {"os-extend": {"new_size": 2}})
    recover(offline)
    assert offline.api.volume(volume_id)["size"] == (1 if place.back else 2)
    assert content(offline, base_name(volume_id)) == held
    offline.check_sound()


@at("copy_volume")
def test_copy_volume(offline: Lab, place: Place) -> None:
    volume_id = offline.api.create_volume()
    write_something(offline, volume_id, b"copied")
    held = content(offline, base_name(volume_id))
    restart(offline, place)
    made = offline.api.ok("volume", "POST", "/volumes", {"volume": {"source_volid": volume_id}})["volume"]["id"]
    recover(offline)
    assert offline.api.volume(made)["status"] == ("error" if place.back else "available")
    if not place.back:
        assert content(offline, base_name(made)) == held
    assert content(offline, base_name(volume_id)) == held
    offline.check_sound()


def active_of(lab: Lab, volume_id: str) -> str:
    chain = lab.api.ok("volume", "GET", f"/volumes/{volume_id}/stillframe-chain")["chain"]
    return next(str(each["name"]) for each in chain["files"] if each["active"])


@at("attach_volume")
def test_attach_volume(lab: Lab, place: Place) -> None:
    volume_id = lab.api.create_volume()
    restart(lab, place)
    path = f"/servers/{lab.guest.id}/os-volume_attachments"
    lab.api.ok("compute", "POST", path, {"volumeAttachment": {"volumeId": volume_id}})
    recover(lab)
    assert lab.api.volume(volume_id)["status"] == ("available" if place.back else "in-use")
    assert (volume_id in lab.guest.domain.XMLDesc(0)) is not place.back
    lab.check_sound()
    lab.guest.still_writes()
    if not place.back:
        lab.api.detach(lab.guest.id, volume_id)
    lab.api.ok("volume", "DELETE", f"/volumes/{volume_id}")


@at("detach_volume")
def test_detach_volume(lab: Lab, place: Place) -> None:
    volume_id = lab.api.create_volume()
    lab.api.attach(lab.guest.id, volume_id)
    restart(lab, place)
    lab.api.ok("compute", "DELETE", f"/servers/{lab.guest.id}/os-volume_attachments/{volume_id}")
    recover(lab)
    assert lab.api.volume(volume_id)["status"] == "available"
    assert volume_id not in lab.guest.domain.XMLDesc(0) + lab.guest.domain.XMLDesc(2)
    lab.check_sound()
    lab.guest.still_writes()
    lab.api.ok("volume", "DELETE", f"/volumes/{volume_id}")


@at("assisted_snapshot")
def test_assisted_snapshot(lab: Lab, place: Place) -> None:
    kept = lab.api.take(lab.guest.id, name="kept", quiesce="required")
    held = lab.frozen_data(kept)
    restart(lab, place)
    body = {"assisted_snapshot": {"quiesce": "required", "name": str(place)[-200:]}}
    path = f"/servers/{lab.guest.id}/os-assisted-snapshots"
    set_id = lab.api.ok("compute", "POST", path, body)["assisted_snapshot"]["id"]
    recover(lab)
    found = lab.api.set(set_id)
    if place.back:
        assert found["status"] == "error"
        assert "failpoint" in found["fault"]
        assert [lab.api.send("volume", "GET", f"/snapshots/{e['snapshot_id']}").status_code for e in found["volumes"]] == [
            404
        ] * 3
    else:
        check_ended_well(lab, found, lost="switch/effect" in str(place))
    lab.guest.still_writes()
    assert not lab.guest.frozen()
    assert lab.frozen_data(kept) == held
    lab.check_sound()


def check_ended_well(lab: Lab, found: dict[str, object], lost: bool) -> None:
    """``lost``: the worker died after the switch, before it could record that the freeze held. That is never glossed over."""
    contents = lab.check_one_instant(found)
    consistency = found["consistency"]
    assert isinstance(consistency, dict)
    assert (found["status"], consistency["level"]) == (("error", "crash") if lost else ("available", "filesystem"))
    assert lost or all(each.clean and each.checks for each in contents)


@at("record_chain")
def test_record_chain(lab: Lab, place: Place) -> None:
    restart(lab, place)
    path = f"/servers/{lab.guest.id}/os-assisted-snapshots"
    body = {"assisted_snapshot": {"quiesce": "required", "volumes": lab.volumes[:1]}}
    set_id = lab.api.ok("compute", "POST", path, body)["assisted_snapshot"]["id"]
    recover(lab)
    lab.check_one_instant(lab.api.set(set_id))
    lab.check_sound()


@at("assisted_volume_snapshot")
def test_assisted_volume_snapshot(lab: Lab, place: Place) -> None:
    volume_id, service = lab.volumes[0], lab.stack.service_api()
    body = {"os-create_snapshot_metadata": {"name": "as Cinder does it"}}
    made = service.ok("volume", "POST", f"/volumes/{volume_id}/action", body)["snapshot"]
    overlay = Image(made["file"]["overlay"], "qcow2", 1 << 30, made["file"]["backing"], "qcow2")
    publish.publish_overlay(lab.stack.share, overlay, "test", volume_id)
    restart(lab, place)
    service = lab.stack.service_api()
    info = {"snapshot_id": made["id"], "type": "qcow2", "new_file": overlay.name}
    answer = service.send(
        "compute", "POST", "/os-assisted-volume-snapshots", {"snapshot": {"volume_id": volume_id, "create_info": info}}
    )
    assert (answer.status_code, answer.json()) == (200, {"snapshot": {"id": None, "volumeId": volume_id}})
    recover(lab)
    service = lab.stack.service_api()
    status, progress = ("error", "90%") if place.back else ("creating", "90%")
    found = service.snapshot(made["id"])
    assert (found["status"], found["os-extended-snapshot-attributes:progress"]) == (status, progress)
    if place.back:
        (lab.stack.share / overlay.name).unlink()
        service.ok("volume", "POST", f"/snapshots/{made['id']}/action", {"os-snapshot_delete_metadata": {}})
    else:
        finalize = {"os-finalize_snapshot_metadata": {"status": "available"}}
        service.ok("volume", "POST", f"/snapshots/{made['id']}/action", finalize)
        assert qcow2.read(lab.stack.share, overlay.name) == overlay
        snapshot: DiskContent = lab.snapshot_data(volume_id, made["id"])
        assert snapshot.counter > 0
    lab.guest.still_writes()
    wait_for(lambda: journal_is_empty(lab), "the .info file")
    lab.check_sound()


@at("delete_assisted_snapshot")
def test_delete_assisted_snapshot(lab: Lab, place: Place) -> None:
    if not lab.guest.domain.isActive():
        lab.api.ok("compute", "POST", f"/servers/{lab.guest.id}/action", {"os-start": None})
    for volume_id in lab.volumes:
        if lab.api.volume(volume_id)["status"] == "available":
            lab.api.attach(lab.guest.id, volume_id)
    kept = lab.api.take(lab.guest.id, quiesce="never")
    gone = lab.api.take(lab.guest.id, quiesce="never")
    lab.guest.domain.destroy()
    held = lab.frozen_data(kept)
    for volume_id in lab.volumes:
        lab.api.detach(lab.guest.id, volume_id)
    restart(lab, place)
    path = f"/servers/{lab.guest.id}/os-assisted-snapshots/{gone['id']}"
    lab.api.ok("compute", "DELETE", path)
    recover(lab)
    assert lab.api.send("compute", "GET", path).status_code == 404
    assert lab.frozen_data(kept) == held
    lab.check_sound()

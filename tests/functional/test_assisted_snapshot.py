"""The main job on a real guest: one freeze, one switch, snapshots that hold one instant."""

import time

from stillframe.chain.names import overlay_name
from stillframe.host import files
from tests.support.lab import Lab
from tests.support.stack import wait_for


def test_all_volumes_are_of_one_instant_and_filesystem_consistent(lab: Lab) -> None:
    seen = lab.guest.beats()[-1].round
    found = lab.api.take(lab.guest.id, name="all", quiesce="required")
    assert (found["status"], found["progress"], found["fault"]) == ("available", 100, None)
    assert {entry["volume_id"] for entry in found["volumes"]} == set(lab.volumes)
    assert all(entry["status"] == "available" and entry["method"] == "assisted" for entry in found["volumes"])
    outcome = found["consistency"]
    assert (outcome["level"], outcome["filesystems"], outcome["degraded_reason"]) == ("filesystem", 3, None)
    assert (outcome["flushed"], outcome["expedited"]) == (True, True)
    assert outcome["frozen_ms"] > 0
    lab.check_instant(found)
    assert found["switched_at_note"] is None
    contents = lab.check_one_instant(found)
    assert all(content.clean and content.checks for content in contents)
    assert min(content.counter for content in contents) >= seen
    lab.guest.still_writes()
    lab.check_sound()


def test_each_snapshot_shows_its_consistency_and_its_set(lab: Lab) -> None:
    found = lab.api.take(lab.guest.id, name="shown", metadata={"job": "nightly"}, quiesce="required")
    for entry in found["volumes"]:
        snapshot = lab.api.snapshot(entry["snapshot_id"])
        assert (snapshot["name"], snapshot["status"], snapshot["metadata"]) == ("shown", "available", {"job": "nightly"})
        assert snapshot["consistency"]["set_id"] == found["id"]
        assert (snapshot["consistency"]["level"], snapshot["consistency"]["filesystems"]) == ("filesystem", 1)
        assert snapshot["os-extended-snapshot-attributes:progress"] == "100%"


def test_a_named_subset_leaves_the_other_disks_alone(lab: Lab) -> None:
    chosen = lab.volumes[1:]
    before = lab.guest.domain.XMLDesc(0).count(lab.volumes[0])
    found = lab.api.take(lab.guest.id, volumes=chosen, quiesce="required")
    assert [entry["volume_id"] for entry in found["volumes"]] == chosen
    assert {entry["consistency"] for entry in found["volumes"]} == {"filesystem"}
    assert found["excluded_disks"] == [{"device": "/dev/vda", "reason": "not asked for"}]
    assert found["consistency"]["filesystems"] == 2
    assert lab.guest.domain.XMLDesc(0).count(lab.volumes[0]) == before
    lab.check_one_instant(found)
    lab.check_sound()


def test_quiesce_never_is_reported_as_not_frozen(lab: Lab) -> None:
    found = lab.api.take(lab.guest.id, quiesce="never")
    assert found["consistency"]["level"] == "crash"
    assert found["consistency"]["degraded_reason"] == "quiescing was not asked for"
    assert found["consistency"]["frozen_ms"] is None
    assert not any(content.clean for content in lab.check_one_instant(found))


def test_a_second_set_while_one_runs_is_refused_by_name(lab: Lab) -> None:
    path = f"/servers/{lab.guest.id}/os-assisted-snapshots"
    first = lab.api.send("compute", "POST", path, {"assisted_snapshot": {}})
    second = lab.api.send("compute", "POST", path, {"assisted_snapshot": {}})
    assert (first.status_code, second.status_code) == (202, 409)
    set_id = first.json()["assisted_snapshot"]["id"]
    assert set_id in second.json()["conflictingRequest"]["message"]
    assert lab.api.wait_set(set_id)["status"] == "available"


def test_the_same_metadata_calls_again_change_nothing(lab: Lab) -> None:
    service = lab.stack.service_api()
    found = lab.api.take(lab.guest.id, volumes=lab.volumes[:1])
    snapshot_id, volume_id = found["volumes"][0]["snapshot_id"], lab.volumes[0]
    again = {"os-create_snapshot_metadata": {"snapshot_id": snapshot_id}}
    answer = service.send("volume", "POST", f"/volumes/{volume_id}/action", again)
    assert (answer.status_code, answer.json()["snapshot"]["id"]) == (202, snapshot_id)
    action = f"/snapshots/{snapshot_id}/action"
    body = {"os-finalize_snapshot_metadata": {"status": "available"}}
    assert service.send("volume", "POST", action, body).status_code == 202
    body = {"os-finalize_snapshot_metadata": {"status": "error"}}
    assert service.send("volume", "POST", action, body).status_code == 409
    assert service.send("volume", "POST", action, {"os-snapshot_delete_metadata": {}}).status_code == 409
    for action_name in ("os-finalize_snapshot_metadata", "os-snapshot_delete_metadata"):
        answer = lab.api.send("volume", "POST", action, {action_name: {}})
        assert answer.status_code == 403, action_name


def test_a_paused_server_is_only_called_crash_consistent(lab: Lab) -> None:
    action = f"/servers/{lab.guest.id}/action"
    lab.api.ok("compute", "POST", action, {"pause": None})
    try:
        path = f"/servers/{lab.guest.id}/os-assisted-snapshots"
        refused = lab.api.send("compute", "POST", path, {"assisted_snapshot": {"quiesce": "required"}})
        assert refused.status_code == 409
        assert "paused" in refused.text
        found = lab.api.take(lab.guest.id, quiesce="preferred")
        assert (found["status"], found["consistency"]["level"]) == ("available", "crash")
        assert "paused" in found["consistency"]["degraded_reason"]
    finally:
        lab.api.ok("compute", "POST", action, {"unpause": None})
    lab.check_one_instant(found)
    lab.guest.still_writes()


def test_attach_snapshot_and_detach_while_the_guest_runs(lab: Lab) -> None:
    volume_id = lab.api.create_volume("plugged")
    lab.api.attach(lab.guest.id, volume_id)
    attachment = lab.api.ok("compute", "GET", f"/servers/{lab.guest.id}/os-volume_attachments/{volume_id}")
    assert attachment["volumeAttachment"]["device"] == "/dev/vdd"
    wait_for(lambda: "/mnt/vdd" in lab.guest.execute("cat /proc/mounts"), "the new disk's filesystem")
    time.sleep(1.5)
    found = lab.api.take(lab.guest.id, quiesce="required")
    assert len(found["volumes"]) == 4
    lab.check_one_instant(found)
    lab.api.detach(lab.guest.id, volume_id)
    assert volume_id not in lab.guest.domain.XMLDesc(0) + lab.guest.domain.XMLDesc(2)
    lab.check_sound()
    snapshot = next(entry for entry in found["volumes"] if entry["volume_id"] == volume_id)
    lab.api.ok("volume", "DELETE", f"/snapshots/{snapshot['snapshot_id']}")
    wait_for(lambda: lab.api.send("volume", "GET", f"/snapshots/{snapshot['snapshot_id']}").status_code == 404, "deletion")
    lab.api.ok("volume", "DELETE", f"/volumes/{volume_id}")
    wait_for(lambda: lab.api.send("volume", "GET", f"/volumes/{volume_id}").status_code == 404, "deletion")
    lab.check_sound()


def test_a_stopped_server_is_exact_and_starts_on_its_overlays(lab: Lab) -> None:
    action = f"/servers/{lab.guest.id}/action"
    lab.guest.domain.destroy()
    found = lab.api.take(lab.guest.id, quiesce="required", name="stopped")
    assert (found["status"], found["consistency"]) == ("available", None)
    assert lab.api.snapshot(found["volumes"][0]["snapshot_id"])["consistency"] is None
    contents = lab.check_one_instant(found)
    lab.check_sound()
    lab.guest.console.unlink()
    lab.api.ok("compute", "POST", action, {"os-start": None})
    lab.guest.wait_ready()
    overlay = overlay_name(lab.volumes[0], found["volumes"][0]["snapshot_id"])
    assert overlay in lab.guest.domain.XMLDesc(0)
    assert files.is_locked(lab.stack.share, overlay)
    assert lab.guest.beats()[-1].round > max(content.counter for content in contents)


def test_a_set_is_deleted_under_the_running_guest(lab: Lab) -> None:
    if not lab.guest.domain.isActive():
        lab.api.ok("compute", "POST", f"/servers/{lab.guest.id}/action", {"os-start": None})
        wait_for(lab.guest.agent_answers, "the guest's agent", 90)
    older = lab.api.take(lab.guest.id, name="older", quiesce="required")
    newest = lab.api.take(lab.guest.id, name="newest", quiesce="required")
    before = lab.frozen_data(older)
    path = f"/servers/{lab.guest.id}/os-assisted-snapshots/{newest['id']}"
    told = lab.api.ok("compute", "DELETE", f"{path}?explain=1")["explanation"]
    shown = lab.api.ok("compute", "GET", f"/os-assisted-snapshots/{newest['id']}?explain=1")["assisted_snapshot"]
    assert told["possible"] and shown["deletion"].keys() == told.keys()
    assert [each["volume_id"] for each in told["volumes"]] == [each["volume_id"] for each in newest["volumes"]]
    assert told["bytes"] == sum(each["bytes"] for each in told["volumes"])
    lab.api.ok("compute", "DELETE", path)
    wait_for(lambda: lab.api.send("compute", "GET", path).status_code == 404, "the set's end", 60)
    assert lab.frozen_data(older) == before
    lab.guest.still_writes()
    lab.check_sound()

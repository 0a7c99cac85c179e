"""A saved guest is not a stopped one: its memory goes on with the disks as they are, so nothing of them is changed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.libvirt import domain_xml
from stillframe.db import attachments, volumes
from stillframe.db.engine import Database
from stillframe.host import hypervisor
from tests.support.content import digest
from tests.support.lab import Lab, open_lab
from tests.support.stack import wait_for


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = open_lab(tmp_path_factory.mktemp("saved"))
    try:
        made.add_guest(2)
        yield made
    finally:
        made.clear()


@pytest.fixture(scope="module")
def first(lab: Lab) -> dict[str, Any]:
    """A set, so that there is something to delete, to revert to and to read."""
    return lab.api.take(lab.guest.id, name="first")


def shown(lab: Lab) -> tuple[str, str, int]:
    server = lab.api.ok("compute", "GET", f"/servers/{lab.guest.id}")["server"]
    return server["status"], server["OS-EXT-STS:vm_state"], server["OS-EXT-STS:power_state"]


def power(lab: Lab, action: str) -> Any:
    return lab.api.send("compute", "POST", f"/servers/{lab.guest.id}/action", {action: None})


def disks(lab: Lab) -> dict[str, str]:
    """What every file of the guest's volumes reads as, by name."""
    chains = [
        lab.stack.api("stillframe-admin").ok("volume", "GET", f"/volumes/{each}/stillframe-chain")["chain"]
        for each in lab.volumes
    ]
    return {each["name"]: digest(lab.stack.share, each["name"]) for chain in chains for each in chain["files"]}


def described(lab: Lab) -> tuple[str | None, str | None]:
    found = hypervisor.view(lab.guest.domain)
    return found.inactive_xml, found.saved_xml


def doctor(lab: Lab) -> str:
    command = [sys.executable, "-m", "stillframe.main.shell", "doctor", "--quick", "--state-dir", str(lab.stack.state_dir)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def goes_on(lab: Lab, round_: int) -> None:
    """The guest is the one that was saved, not one that was booted, and writes on from where it was."""
    wait_for(lab.guest.agent_answers, "the agent", 60)
    wait_for(lambda: bool(lab.guest.beats()), "the guest's writer", 60)  # its console's file begins anew with each start
    lab.guest.still_writes(30)
    assert "guest: ready" not in lab.guest.text()
    assert lab.guest.beats()[-1].round > round_
    assert hypervisor.view(lab.guest.domain).running


def refused_while_saved(lab: Lab, found: dict[str, Any]) -> dict[str, tuple[str, str, str, Any]]:
    """Every request that would change a file, a name or the definition: service, method, path, body."""
    server, volume = f"/servers/{lab.guest.id}", lab.volumes[0]
    snapshot = found["volumes"][0]["snapshot_id"]
    spare, sets = lab.api.create_volume("spare"), f"{server}/os-assisted-snapshots"
    action = f"/volumes/{volume}/action"
    return {
        **{
            f"set, {policy}": ("compute", "POST", sets, {"assisted_snapshot": {"quiesce": policy}})
            for policy in ("required", "preferred", "never")
        },
        "set of one volume": ("compute", "POST", sets, {"assisted_snapshot": {"volumes": [volume]}}),
        "delete the set": ("compute", "DELETE", f"{sets}/{found['id']}", None),
        "delete a snapshot": ("volume", "DELETE", f"/snapshots/{snapshot}", None),
        "revert": ("volume", "POST", action, {"revert": {"snapshot_id": snapshot}}),
        "extend": ("volume", "POST", action, {"os-extend": {"new_size": 2}}),
        "detach": ("compute", "DELETE", f"{server}/os-volume_attachments/{volume}", None),
        "attach": ("compute", "POST", f"{server}/os-volume_attachments", {"volumeAttachment": {"volumeId": spare}}),
        "stop": ("compute", "POST", f"{server}/action", {"os-stop": None}),
        "pause": ("compute", "POST", f"{server}/action", {"pause": None}),
        "reboot": ("compute", "POST", f"{server}/action", {"reboot": {"type": "HARD"}}),
    }


def test_a_saved_guest_is_left_alone_and_comes_back_as_it_was(lab: Lab, first: dict[str, Any]) -> None:
    round_ = lab.guest.beats()[-1].round
    requests = refused_while_saved(lab, first)
    lab.guest.domain.managedSave(0)
    assert shown(lab) == ("SUSPENDED", "suspended", 4)
    content, descriptions = disks(lab), described(lab)
    for what, request in requests.items():
        answer = lab.api.send(*request)
        assert answer.status_code == 409, (what, answer.status_code, answer.text)
        assert "managed save" in answer.text, (what, answer.text)
    snapshot = first["volumes"][0]["snapshot_id"]
    create = {"snapshot_id": "5a5a5a5a-5555-4555-8555-555555555555", "type": "qcow2", "new_file": f"volume-{lab.volumes[0]}.x"}
    novas = {"snapshot": {"volume_id": lab.volumes[0], "create_info": create}}
    assert lab.stack.service_api().send("compute", "POST", "/os-assisted-volume-snapshots", novas).status_code == 400
    assert (disks(lab), described(lab)) == (content, descriptions)
    assert [each["status"] for each in lab.api.ok("volume", "GET", "/snapshots/detail")["snapshots"]] == ["available"] * 2
    assert lab.api.set(first["id"])["status"] == "available"

    # Reading is allowed: the disks are still, and nothing of them changes.
    backup = {"backup": {"volume_id": lab.volumes[0], "snapshot_id": snapshot, "force": True}}
    lab.api.ok("volume", "POST", "/backups", backup)
    clone = {"volume": {"snapshot_id": snapshot, "size": 1, "name": "copy"}}
    wait_for(lambda: lab.api.send("volume", "POST", "/volumes", clone).status_code == 202, "the volume's record")
    wait_for(
        lambda: {each["status"] for each in lab.api.ok("volume", "GET", "/backups/detail")["backups"]} == {"available"},
        "the backup",
        60,
    )
    copy = next(each["id"] for each in lab.api.ok("volume", "GET", "/volumes")["volumes"] if each["name"] == "copy")
    wait_for(lambda: lab.api.volume(copy)["status"] == "available", "the copy", 60)
    assert digest(lab.stack.share, f"volume-{copy}") == digest(lab.stack.share, lab.snapshot_file(lab.volumes[0], snapshot))
    assert (disks(lab), described(lab)) == (content, descriptions)
    assert "saved_names_other_file" not in doctor(lab)

    held = {each["snapshot_id"]: lab.snapshot_file(each["volume_id"], each["snapshot_id"]) for each in first["volumes"]}
    before = {name: digest(lab.stack.share, name) for name in held.values()}
    assert power(lab, "os-start").status_code == 202
    goes_on(lab, round_)
    assert {name: digest(lab.stack.share, name) for name in held.values()} == before
    assert shown(lab) == ("ACTIVE", "active", 1)
    lab.check_one_instant(lab.api.take(lab.guest.id, quiesce="required"))


def test_a_saved_guest_whose_files_were_exchanged_is_not_restored(lab: Lab, first: dict[str, Any]) -> None:
    round_ = lab.guest.beats()[-1].round
    domain = lab.guest.domain
    domain.managedSave(0)
    xml = hypervisor.view(domain).inactive_xml
    assert xml is not None
    disk = next(each for each in domain_xml.read(xml).disks if each.volume_id == lab.volumes[0])
    other = str(lab.stack.share / lab.snapshot_file(lab.volumes[0], first["volumes"][0]["snapshot_id"]))
    hypervisor.update_definition(domain, domain_xml.with_file(xml, disk.target, other, "qcow2"))
    for action in ("os-start", "resume"):
        answer = power(lab, action)
        assert answer.status_code == 409, answer.text
        assert str(disk.name) in answer.text and Path(other).name in answer.text
        assert str(lab.stack.share) not in answer.text
    assert hypervisor.view(domain).saved
    assert "saved_names_other_file" in doctor(lab)
    hypervisor.update_definition(domain, domain_xml.with_file(xml, disk.target, str(disk.file), "qcow2"))
    assert "saved_names_other_file" not in doctor(lab)
    assert power(lab, "resume").status_code == 202
    goes_on(lab, round_)


def test_files_of_a_saved_guest_are_left_alone_even_if_no_row_names_them(lab: Lab, first: dict[str, Any]) -> None:
    """Its attachment was taken out of the rows, as a database of yesterday has it: the volume counts as available."""
    round_, volume = lab.guest.beats()[-1].round, lab.volumes[0]
    snapshot = next(each["snapshot_id"] for each in first["volumes"] if each["volume_id"] == volume)
    lab.guest.domain.managedSave(0)
    database = Database(f"sqlite:///{lab.stack.state_dir}/stillframe.sqlite")
    with database.write() as connection:
        (row,) = attachments.of_volumes(connection, [volume])[volume]
        attachments.delete(connection, row["id"])
        volumes.change(connection, volume, status="available")
    content, descriptions = disks(lab), described(lab)
    taken = lab.api.send("volume", "POST", "/snapshots", {"snapshot": {"volume_id": volume}})
    assert taken.status_code == 409 and lab.guest.id in taken.text and "saved" in taken.text, taken.text
    action = f"/volumes/{volume}/action"
    for method, path, body in (
        ("POST", action, {"os-extend": {"new_size": 2}}),
        ("POST", action, {"revert": {"snapshot_id": snapshot}}),
        ("DELETE", f"/snapshots/{snapshot}", None),
        ("DELETE", f"/volumes/{volume}?cascade=true", None),
        ("POST", action, {"os-unmanage": {}}),
    ):
        lab.stack.api("stillframe-admin").send("volume", method, path, body)
        wait_for(lambda: lab.api.volume(volume)["status"] == "available" and not unfinished(lab), "the end of it", 60)
        assert (disks(lab), described(lab)) == (content, descriptions), (method, path, body)
    assert lab.api.volume(volume)["size"] == 1
    with database.write() as connection:
        again: Any = {key: value for key, value in row.items() if key != "seq"}
        attachments.insert(connection, again)
        volumes.change(connection, volume, status="in-use", fault=None)
    database.close()
    assert power(lab, "os-start").status_code == 202
    goes_on(lab, round_)


def unfinished(lab: Lab) -> list[Any]:
    said = subprocess.run(
        [sys.executable, "-m", "stillframe.main.shell", "operation", "list", "-f", "json", "--state-dir", lab.stack.state_dir],
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[Any] = json.loads(said.stdout or "[]")
    return found


def test_a_guest_saved_to_a_file_of_somebodys_choice_waits_for_it(lab: Lab) -> None:
    round_ = lab.guest.beats()[-1].round
    kept = str(lab.directory / "kept.save")
    lab.guest.domain.save(kept)
    assert shown(lab)[0] == "SUSPENDED"
    before = disks(lab)
    path = f"/servers/{lab.guest.id}/os-assisted-snapshots"
    for answer in (lab.api.send("compute", "POST", path, {"assisted_snapshot": {}}), power(lab, "os-start")):
        assert answer.status_code == 409, answer.text
        assert "virsh restore FILE" in answer.text
    assert disks(lab) == before
    lab.stack.hypervisor.connection().restore(kept)
    goes_on(lab, round_)


def test_a_discarded_saved_memory_leaves_a_stopped_server(lab: Lab) -> None:
    domain = lab.guest.domain
    domain.managedSave(0)
    assert shown(lab)[0] == "SUSPENDED"
    domain.managedSaveRemove(0)
    assert shown(lab) == ("SHUTOFF", "stopped", 4)
    found = lab.api.take(lab.guest.id, name="while stopped")
    assert (found["status"], found["consistency"]) == ("available", None)
    held = {lab.snapshot_file(each["volume_id"], each["snapshot_id"]) for each in found["volumes"]}
    before = {name: digest(lab.stack.share, name) for name in held}
    assert power(lab, "os-start").status_code == 202
    lab.guest.wait_ready()
    lab.guest.still_writes(30)
    assert {name: digest(lab.stack.share, name) for name in held} == before
    lab.check_sound()

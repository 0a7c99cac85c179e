"""A server that vanished gives its volumes back, with proof and with their content; what is in use is never taken."""

import re
import subprocess
from collections.abc import Iterator

import libvirt_qemu
import pytest

from stillframe.compute.libvirt import domain_xml
from stillframe.db import attachments, volumes
from stillframe.host import hypervisor
from tests.support import qemu_io
from tests.support.careless_images import CarelessImages, careless_images
from tests.support.content import digest, flattened
from tests.support.guest.domain import Guest, GuestOptions
from tests.support.lab import open_lab
from tests.support.operator import Operator

IMAGES: list[CarelessImages] = []  # what the image service has been given


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with careless_images() as images:
        made = open_lab(tmp_path_factory.mktemp("vanished"), f"[image]\nendpoint = {images.url}\n")
        IMAGES.append(images)
        try:
            yield Operator(made)
        finally:
            IMAGES.clear()
            made.clear()


def abandoned(operator: Operator, name: str, gone: bool = True) -> tuple[str, str, str]:
    """Makes a server with a volume and undefines it; returns the server's, the volume's and the attachment's id."""
    guest = operator.lab.add_guest(1, GuestOptions(name=name), boot=False)
    volume_id = operator.lab.volumes[-1]
    attachment = operator.api.volume(volume_id)["attachments"][0]["attachment_id"]
    if gone:
        hypervisor.undefine(guest.domain)
        operator.lab.guests.remove(guest)
    return guest.id, volume_id, attachment


def kinds(operator: Operator) -> list[str]:
    return [each["kind"] for each in operator.document("--quick")["findings"]]


def force_delete(operator: Operator, volume_id: str) -> int:
    admin = operator.lab.stack.api("stillframe-admin")
    assert admin.send("volume", "POST", f"/volumes/{volume_id}/action", {"os-reset_status": {"status": "error"}}).ok
    return admin.send("volume", "POST", f"/volumes/{volume_id}/action", {"os-force_delete": {}}).status_code


def test_a_vanished_servers_volume_is_released_with_its_content(operator: Operator) -> None:
    server_id, volume_id, attachment = abandoned(operator, "vanished")
    qemu_io.write(operator.share, f"volume-{volume_id}", b"written by the server that is gone")
    before = digest(operator.share, f"volume-{volume_id}")
    admin = operator.lab.stack.api("stillframe-admin")
    refused = operator.api.send("compute", "DELETE", f"/servers/{server_id}/os-volume_attachments/{volume_id}")
    assert refused.status_code == 404 and "volume attachment delete" in refused.text
    assert operator.api.send("volume", "DELETE", f"/attachments/{attachment}").status_code == 409
    assert kinds(operator) == ["server_gone"]
    assert admin.send("volume", "DELETE", f"/attachments/{attachment}").status_code == 200
    assert operator.api.volume(volume_id)["status"] == "available"
    assert kinds(operator) == []
    assert digest(operator.share, f"volume-{volume_id}") == before


def test_no_status_lets_an_attached_volume_be_deleted(operator: Operator) -> None:
    _, volume_id, attachment = abandoned(operator, "forced")
    assert force_delete(operator, volume_id) == 400
    operator.settle()
    assert (operator.share / f"volume-{volume_id}").exists()
    admin = operator.lab.stack.api("stillframe-admin")
    assert admin.send("volume", "POST", f"/volumes/{volume_id}/action", {"os-force_detach": {}}).status_code == 202
    assert force_delete(operator, volume_id) == 202
    assert attachment


def test_what_a_program_or_a_server_uses_is_not_released(operator: Operator) -> None:
    _, volume_id, attachment = abandoned(operator, "used", gone=False)
    admin = operator.lab.stack.api("stillframe-admin")
    refused = admin.send("volume", "DELETE", f"/attachments/{attachment}")
    assert refused.status_code == 409 and "inactive description" in refused.text and "(used)" in refused.text
    guest = operator.lab.guests.pop()
    hypervisor.undefine(guest.domain)
    with (operator.share / f"volume-{volume_id}").open("rb") as opened:
        reader = subprocess.Popen(["sleep", "1000"], stdin=opened)
    try:
        refused = admin.send("volume", "POST", f"/volumes/{volume_id}/action", {"os-force_detach": {}})
        assert refused.status_code == 409 and f"sleep (pid {reader.pid})" in refused.text
        told = operator.document("--fix", "--yes", "--quick")
        assert "repaired" not in told
        assert told["not_repaired"][0]["why"] == f"a program has volume-{volume_id} open"
    finally:
        reader.kill()
        reader.wait()
    assert operator.document("--fix", "--yes", "--quick")["left"] == []
    assert operator.api.volume(volume_id)["status"] == "available"


def write_as_guest(guest: Guest, text: bytes) -> None:
    """The guest's own device writes, though its processor stands still."""
    command = f'qemu-io -d {device(guest)} "write -P {text[0]} 0 65536"'
    told = libvirt_qemu.qemuMonitorCommand(guest.domain, command, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
    assert "wrote 65536" in told or not told.strip(), told


def device(guest: Guest) -> str:
    told = libvirt_qemu.qemuMonitorCommand(guest.domain, "info block", libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
    return str(re.search(r"Attached to:\s+(\S+)", told)[1])  # type: ignore[index]


def test_a_guest_keeps_a_volume_whose_attachment_is_not_complete(operator: Operator) -> None:
    """Compute has plugged the disk and not said so yet. Whoever lets go of the volume then makes it look free."""
    api, service, admin = operator.api, operator.lab.stack.service_api(), operator.lab.stack.api("stillframe-admin")
    guest = operator.lab.add_guest(0, GuestOptions(name="early"), boot=False)
    volume_id = operator.volume("early")
    name = f"volume-{volume_id}"
    wanted = {"volume_uuid": volume_id, "instance_uuid": guest.id, "connector": {"host": "here"}}
    attachment = service.ok("volume", "POST", "/attachments", {"attachment": wanted})["attachment"]["id"]
    xml = domain_xml.volume_disk(volume_id, str(operator.share / name), "qcow2", "vda")
    hypervisor.attach_device(guest.domain, xml, live=False, config=True)
    guest.domain.createWithFlags(1)  # VIR_DOMAIN_START_PAUSED
    try:
        write_as_guest(guest, b"a")
        for who in (api, admin):
            answer = who.send("volume", "DELETE", f"/attachments/{attachment}")
            assert answer.status_code == 409, answer.text
            assert (f"server {guest.id}" in answer.text) == (who is admin)
        assert api.volume(volume_id)["status"] == "attaching"
        with operator.database().write() as connection:  # as if it had been lost in any other way
            attachments.delete(connection, attachment)
            volumes.change(connection, volume_id, status="available")
        offline_is_refused(operator, volume_id)
        write_as_guest(guest, b"b")
    finally:
        guest.domain.destroy()
    offline_is_refused(operator, volume_id)  # its definition names it: it would go on with the file under that name
    hypervisor.undefine(guest.domain)
    operator.lab.guests.remove(guest)
    with flattened(operator.share, name) as raw:
        assert raw.read_bytes()[:65536] == b"b" * 65536
    operator.snapshot(volume_id)


def offline_is_refused(operator: Operator, volume_id: str) -> None:
    """Everything that reads or changes the volume's files with nothing attached is refused or fails; nothing has changed."""
    name = f"volume-{volume_id}"
    before = sorted(each.name for each in operator.share.glob(f"{name}*"))
    asked = {
        "snapshot": ("/snapshots", {"snapshot": {"volume_id": volume_id}}),
        "clone": ("/volumes", {"volume": {"source_volid": volume_id}}),
        "back up": ("/backups", {"backup": {"volume_id": volume_id}}),
        "extend": (f"/volumes/{volume_id}/action", {"os-extend": {"new_size": 2}}),
        "upload": (f"/volumes/{volume_id}/action", {"os-volume_upload_image": {"image_name": "taken"}}),
    }
    for what, (path, body) in asked.items():
        answer = operator.api.send("volume", "POST", path, body)
        assert answer.status_code in (202, 409), (what, answer.text)
        operator.settle()
        if answer.status_code == 202 and what not in ("extend", "upload"):
            ((noun, made),) = answer.json().items()
            found = operator.api.ok("volume", "GET", f"/{noun}s/{made['id']}")[noun]
            assert found["status"] == "error", (what, found)
            assert operator.api.send("volume", "DELETE", f"/{noun}s/{made['id']}").status_code == 202
            operator.settle()
    assert (IMAGES[0].told, IMAGES[0].content) == ({}, {})
    assert operator.api.send("volume", "DELETE", f"/volumes/{volume_id}").status_code in (202, 409)
    operator.settle()
    shown = operator.api.volume(volume_id)
    assert (shown["status"], shown["size"]) == ("available", 1)
    assert [each for each in sorted(each.name for each in operator.share.glob(f"{name}*")) if not each.endswith(".record")] == [
        each for each in before if not each.endswith(".record")
    ]

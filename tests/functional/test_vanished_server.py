"""A server that vanished gives its volumes back, with proof and with their content; what is in use is never taken."""

import subprocess
from collections.abc import Iterator

import pytest

from stillframe.host import hypervisor
from tests.support import qemu_io
from tests.support.content import digest
from tests.support.desk import Desk
from tests.support.guest.domain import GuestOptions
from tests.support.lab import open_lab


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    made = open_lab(tmp_path_factory.mktemp("vanished"))
    try:
        yield Desk(made)
    finally:
        made.clear()


def abandoned(desk: Desk, name: str, gone: bool = True) -> tuple[str, str, str]:
    """Makes a server with a volume and undefines it; returns the server's, the volume's and the attachment's id."""
    guest = desk.lab.add_guest(1, GuestOptions(name=name), boot=False)
    volume_id = desk.lab.volumes[-1]
    attachment = desk.api.volume(volume_id)["attachments"][0]["attachment_id"]
    if gone:
        hypervisor.undefine(guest.domain)
        desk.lab.guests.remove(guest)
    return guest.id, volume_id, attachment


def kinds(desk: Desk) -> list[str]:
    return [each["kind"] for each in desk.document("--quick")["findings"]]


def force_delete(desk: Desk, volume_id: str) -> int:
    admin = desk.lab.stack.api("stillframe-admin")
    assert admin.send("volume", "POST", f"/volumes/{volume_id}/action", {"os-reset_status": {"status": "error"}}).ok
    return admin.send("volume", "POST", f"/volumes/{volume_id}/action", {"os-force_delete": {}}).status_code


def test_a_vanished_servers_volume_is_released_with_its_content(desk: Desk) -> None:
    server_id, volume_id, attachment = abandoned(desk, "vanished")
    qemu_io.write(desk.share, f"volume-{volume_id}", b"written by the server that is gone")
    before = digest(desk.share, f"volume-{volume_id}")
    admin = desk.lab.stack.api("stillframe-admin")
    refused = desk.api.send("compute", "DELETE", f"/servers/{server_id}/os-volume_attachments/{volume_id}")
    assert refused.status_code == 404 and "volume attachment delete" in refused.text
    assert desk.api.send("volume", "DELETE", f"/attachments/{attachment}").status_code == 409
    assert kinds(desk) == ["server_gone"]
    assert admin.send("volume", "DELETE", f"/attachments/{attachment}").status_code == 200
    assert desk.api.volume(volume_id)["status"] == "available"
    assert kinds(desk) == []
    assert digest(desk.share, f"volume-{volume_id}") == before


def test_no_status_lets_an_attached_volume_be_deleted(desk: Desk) -> None:
    _, volume_id, attachment = abandoned(desk, "forced")
    assert force_delete(desk, volume_id) == 400
    desk.settle()
    assert (desk.share / f"volume-{volume_id}").exists()
    admin = desk.lab.stack.api("stillframe-admin")
    assert admin.send("volume", "POST", f"/volumes/{volume_id}/action", {"os-force_detach": {}}).status_code == 202
    assert force_delete(desk, volume_id) == 202
    assert attachment


def test_what_a_program_or_a_server_uses_is_not_released(desk: Desk) -> None:
    _, volume_id, attachment = abandoned(desk, "used", gone=False)
    admin = desk.lab.stack.api("stillframe-admin")
    refused = admin.send("volume", "DELETE", f"/attachments/{attachment}")
    assert refused.status_code == 409 and "inactive description" in refused.text and "(used)" in refused.text
    guest = desk.lab.guests.pop()
    hypervisor.undefine(guest.domain)
    with (desk.share / f"volume-{volume_id}").open("rb") as opened:
        reader = subprocess.Popen(["sleep", "1000"], stdin=opened)
    try:
        refused = admin.send("volume", "POST", f"/volumes/{volume_id}/action", {"os-force_detach": {}})
        assert refused.status_code == 409 and f"sleep (pid {reader.pid})" in refused.text
        assert desk.document("--fix", "--yes", "--quick")["repaired"][0]["trouble"] is not None
    finally:
        reader.kill()
        reader.wait()
    assert desk.document("--fix", "--yes", "--quick")["left"] == []
    assert desk.api.volume(volume_id)["status"] == "available"

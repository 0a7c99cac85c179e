"""What libvirt, QEMU or qemu-img refuses for good ends at once, in their words, with everything as before."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import requests

from stillframe.compute.libvirt.domain_xml import NAMESPACE
from stillframe.errors import AccessRefused
from stillframe.host.run import run
from tests.support import bitmaps, image_lock, qemu_io
from tests.support.content import digest
from tests.support.lab import open_lab
from tests.support.operator import Operator
from tests.support.stack import wait_for

GONE = "<disk type='file' device='cdrom'><source file='/srv/canary/gone.iso'/><target dev='sda' bus='sata'/></disk>"


def machine(operator: Operator, name: str, kind: str = "pc", more: str = "") -> Any:
    """Defines a machine without a system."""
    return operator.lab.stack.hypervisor.connection().defineXML(
        f"""<domain type='qemu'><name>{name}</name>
<metadata><sf:owner xmlns:sf="{NAMESPACE}" project="demo" user="operator"/></metadata><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='{kind}'>hvm</type></os><features><acpi/></features>
<devices>{more}<memballoon model='none'/></devices></domain>"""
    )


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    made = Operator(open_lab(tmp_path_factory.mktemp("refusals"), "[compute]\ndetach_timeout_seconds = 2\n"))
    domains = [
        machine(made, "usual"),
        machine(made, "no-pci", "isapc", "<controller type='usb' model='none'/>"),
        machine(made, "no-cdrom", more=GONE),
    ]
    try:
        for domain in domains[:2]:
            domain.create()
        yield made
    finally:
        for domain in domains:
            if domain.isActive():
                domain.destroy()
            domain.undefine()
        made.lab.clear()


def server(operator: Operator, name: str) -> str:
    found = operator.api.ok("compute", "GET", f"/servers?name={name}")["servers"]
    return str(found[0]["id"])


def written(operator: Operator) -> tuple[str, Path, str]:
    """Makes a volume that holds something; returns its id, its file, and what a reader sees."""
    volume_id = operator.volume()
    path = operator.share / f"volume-{volume_id}"
    qemu_io.write(operator.share, path.name, b"whoever is refused leaves it alone")
    return volume_id, path, digest(operator.share, path.name)


def told(operator: Operator, volume_id: str) -> str:
    """Waits for the fault of what was asked for last, and for everything that follows."""
    wait_for(lambda: bool(operator.api.volume(volume_id).get("fault")), "the fault")
    operator.settle()
    return str(operator.api.volume(volume_id)["fault"])


def tries(operator: Operator, answer: requests.Response) -> int:
    """How often a step of what was asked for met an error."""
    asked = f"[{answer.headers['x-openstack-request-id']} "
    return sum(asked in line and ", step " in line for line in operator.lab.stack.log.read_text().splitlines())


def extend(operator: Operator, volume_id: str) -> requests.Response:
    return operator.api.send("volume", "POST", f"/volumes/{volume_id}/action", {"os-extend": {"new_size": 2}})


def test_a_volume_that_qemu_img_does_not_grow_is_as_before_and_says_why(operator: Operator) -> None:
    volume_id, path, before = written(operator)
    bitmaps.add(path, "monday")
    bitmaps.change(path, bitmaps.STRANGE_TYPE)
    answer = extend(operator, volume_id)
    assert answer.status_code == 202, answer.text
    fault = told(operator, volume_id)
    assert "qemu-img resize failed with exit code 1" in fault and "Bitmap 'monday' doesn't satisfy the constraints" in fault
    assert str(operator.state) not in fault
    found = operator.api.volume(volume_id)
    assert (found["status"], found["size"]) == ("available", 1)
    assert tries(operator, answer) == 1
    bitmaps.change(path, bitmaps.SOUND)
    assert digest(operator.share, path.name) == before
    extend(operator, volume_id)
    wait_for(lambda: operator.api.volume(volume_id)["size"] == 2, "the growth")
    assert "fault" not in operator.api.volume(volume_id)


def test_what_is_known_to_fail_is_answered_at_once(operator: Operator) -> None:
    volume_id, path, before = written(operator)
    bitmaps.add(path, "monday")
    bitmaps.change(path, bitmaps.IN_USE)
    answer = extend(operator, volume_id)
    assert answer.status_code == 409
    fault = answer.json()["conflictingRequest"]
    assert "were in use when their writer ended: monday" in fault["summary"] and fault["error_code"] == "image_not_sound"
    found = operator.api.volume(volume_id)
    assert (found["status"], found["size"], "fault" in found) == ("available", 1, False)
    assert digest(operator.share, path.name) == before


def test_a_share_that_does_not_answer_is_told_by_its_directory_to_administrators_only(operator: Operator) -> None:
    volume_id, path, before = written(operator)
    snapshot = {"snapshot": {"volume_id": volume_id, "name": "s"}}
    marker = operator.share / ".share-id"
    marker.rename(operator.share / "aside")
    try:
        asked = [
            extend(operator, volume_id),
            operator.api.send("volume", "POST", "/snapshots", snapshot),
            operator.api.send("volume", "GET", f"/volumes/{volume_id}?explain=1"),
            operator.api.send("volume", "POST", "/volumes", {"volume": {"size": 1}}),
        ]
        refused = [answer.text for answer in asked if answer.status_code == 503]
        assert len(refused) >= 2, [answer.text for answer in asked]
        assert "the volume's share" in refused[0]
        assert not [text for text in (answer.text for answer in asked) if str(operator.state) in text]
        assert (
            str(operator.share)
            in operator.lab.stack.api("stillframe-admin").send("volume", "POST", "/snapshots", snapshot).text
        )
    finally:
        (operator.share / "aside").rename(marker)
    operator.settle()
    assert digest(operator.share, path.name) == before


def test_a_disk_that_qemu_does_not_grow_is_as_before_and_says_why(operator: Operator) -> None:
    """libvirt's refusal crosses from compute to block storage, and is not taken for a service that does not answer."""
    server_id = server(operator, "usual")
    volume_id, path, before = written(operator)
    bitmaps.add(path, "monday")
    bitmaps.change(path, bitmaps.IN_USE)
    operator.api.attach(server_id, volume_id)
    operator.settle()
    answer = extend(operator, volume_id)
    fault = told(operator, volume_id)
    assert "libvirt refused a call" in fault and "Bitmap 'monday' is inconsistent" in fault
    found = operator.api.volume(volume_id)
    assert (found["status"], found["size"]) == ("in-use", 1)
    assert tries(operator, answer) == 1
    # The machine has no system that would let a disk go while it runs: that is told too, until it goes well.
    operator.api.ok("compute", "DELETE", f"/servers/{server_id}/os-volume_attachments/{volume_id}")
    wait_for(lambda: "did not release" in operator.api.volume(volume_id).get("fault", ""), "the fault", 60)
    operator.settle()
    assert operator.api.volume(volume_id)["status"] == "in-use"
    detached_stopped(operator, server_id, volume_id)
    assert digest(operator.share, path.name) == before


def detached_stopped(operator: Operator, server_id: str, volume_id: str) -> None:
    domain = operator.lab.stack.hypervisor.domain(server_id)
    domain.destroy()
    operator.api.detach(server_id, volume_id)
    operator.settle()
    assert "fault" not in operator.api.volume(volume_id)
    domain.create()


@pytest.mark.parametrize(("name", "words"), [("no-pci", "No PCI buses available"), ("usual", 'Failed to get "write" lock')])
def test_a_disk_that_the_server_does_not_take_is_as_before_and_says_why(operator: Operator, name: str, words: str) -> None:
    server_id = server(operator, name)
    volume_id, path, before = written(operator)
    with image_lock.held(path) if "lock" in words else nullcontext():
        body = {"volumeAttachment": {"volumeId": volume_id}}
        answer = operator.api.send("compute", "POST", f"/servers/{server_id}/os-volume_attachments", body)
        assert answer.status_code == 200
        fault = told(operator, volume_id)
    assert "libvirt refused a call" in fault and words in fault
    assert str(operator.state) not in fault
    found = operator.api.volume(volume_id)
    assert (found["status"], found["attachments"]) == ("available", [])
    assert operator.api.ok("volume", "GET", f"/attachments?volume_id={volume_id}")["attachments"] == []
    assert tries(operator, answer) == 1
    assert digest(operator.share, path.name) == before
    if name == "usual":
        operator.api.attach(server_id, volume_id)
        operator.settle()
        assert "fault" not in operator.api.volume(volume_id)
        detached_stopped(operator, server_id, volume_id)


def test_the_answer_to_an_action_that_libvirt_refuses_quotes_it(operator: Operator) -> None:
    answer = operator.api.send("compute", "POST", f"/servers/{server(operator, 'no-cdrom')}/action", {"os-start": None})
    assert answer.status_code == 409
    fault = answer.json()["conflictingRequest"]
    assert "Cannot access storage file 'gone.iso'" in fault["summary"] and fault["error_code"] == "hypervisor_refused"
    assert "canary" not in answer.text


def test_a_file_of_the_chain_that_is_not_there_is_named(operator: Operator) -> None:
    volume_id, path, before = written(operator)
    snapshot_id = operator.snapshot(volume_id)
    aside = path.rename(operator.share.parent / path.name)
    answer = operator.api.send("volume", "POST", "/snapshots", {"snapshot": {"volume_id": volume_id}})
    assert answer.status_code == 409, answer.text
    assert path.name in answer.text and str(operator.state) not in answer.text
    aside.rename(path)
    assert digest(operator.share, path.name) == before
    assert operator.api.snapshot(snapshot_id)["status"] == "available"


def test_a_server_without_its_file_is_answered_with_the_file(operator: Operator) -> None:
    server_id = server(operator, "usual")
    volume_id, path, before = written(operator)
    domain = operator.lab.stack.hypervisor.domain(server_id)
    domain.destroy()
    operator.api.attach(server_id, volume_id)
    operator.settle()
    aside = path.rename(operator.share.parent / path.name)
    answer = operator.api.send("compute", "POST", f"/servers/{server_id}/action", {"os-start": None})
    assert answer.status_code == 409, answer.text
    assert path.name in answer.text and str(operator.state) not in answer.text
    aside.rename(path)
    operator.api.ok("compute", "POST", f"/servers/{server_id}/action", {"os-start": None})
    detached_stopped(operator, server_id, volume_id)
    assert digest(operator.share, path.name) == before


def test_a_program_that_may_not_read_a_file_is_reported_as_access_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").touch(0o600)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    with pytest.raises(AccessRefused, match="secret: Permission denied"):
        run([*nobody, "cat", "secret"], cwd=tmp_path)

"""A guest that stands still for a reason of its own: a full share, sleep, a crash. What its state allows is done, the rest is
refused with nothing changed, and it goes on as it was. By a real guest, on a share that can be filled."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import libvirt
import pytest

from stillframe.compute.libvirt.domain_xml import NAMESPACE
from stillframe.errors import AgentFailed
from stillframe.host import hypervisor
from tests.support.content import digest
from tests.support.guest.domain import GuestOptions
from tests.support.lab import Lab, open_lab
from tests.support.operator import Operator
from tests.support.small_share import fill, small_share
from tests.support.stack import wait_for

# A guest tells its host that its kernel has crashed by one byte to this device (QEMU's docs/specs/pvpanic.txt).
CRASHING = f"""<domain type='qemu'><name>crashing</name>
<metadata><sf:owner xmlns:sf="{NAMESPACE}" project="demo" user="operator"/></metadata><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os><features><acpi/></features><on_crash>preserve</on_crash>
<devices><memballoon model='none'/><panic model='isa'><address type='isa' iobase='0x505'/></panic></devices></domain>"""
TELLS_OF_A_CRASH = b"\xba\x05\x05\xb0\x01\xee\xf4\xeb\xfd"  # mov dx, 0x505; mov al, 1; out dx, al; hlt; jmp to the hlt

SLEEP = "<pm><suspend-to-mem enabled='yes'/></pm>"
PAUSED = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR]
SETS = [("POST", "os-assisted-snapshots", {"assisted_snapshot": {"quiesce": each}}) for each in ("required", "never")]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("states")
    with small_share(directory, 256):
        made = open_lab(directory, "[volumes]\nminimum_free_mib = 1\n")
        try:
            # Of another size than usual, so that it boots: the memory others begin with cannot sleep.
            guest = made.add_guest(2, GuestOptions(memory_mib=224), boot=False)
            xml = hypervisor.view(guest.domain).xml
            hypervisor.define(made.stack.hypervisor, xml.replace("</features>", f"</features>{SLEEP}"))
            guest.boot()
            yield made
        finally:
            made.clear()


@pytest.fixture(scope="module")
def spare(lab: Lab) -> str:
    return lab.api.create_volume("spare")


def state(lab: Lab, server_id: str) -> tuple[str, int]:
    server = lab.api.ok("compute", "GET", f"/servers/{server_id}")["server"]
    return server["status"], server["OS-EXT-STS:power_state"]


def attached(lab: Lab, server_id: str) -> list[str]:
    found = lab.api.ok("compute", "GET", f"/servers/{server_id}/os-volume_attachments")["volumeAttachments"]
    return [each["volumeId"] for each in found]


def ask(lab: Lab, server_id: str, method: str, path: str, body: Any = None) -> tuple[int, str]:
    answer = lab.api.send("compute", method, f"/servers/{server_id}/{path}", body)
    return answer.status_code, answer.text


def held(lab: Lab, found: dict[str, Any]) -> dict[str, str]:
    """What the snapshots of a set read as, by id: a merge gives what they hold another name."""
    files = {each["snapshot_id"]: lab.snapshot_file(each["volume_id"], each["snapshot_id"]) for each in found["volumes"]}
    return {snapshot_id: digest(lab.stack.share, name) for snapshot_id, name in files.items()}


def refused(lab: Lab, server_id: str, words: str, *requests: tuple[str, str, Any]) -> None:
    """409 with the state in words, and nothing of the definition or the share changed."""
    domain = lab.stack.hypervisor.domain(server_id)
    before = hypervisor.view(domain)
    names = sorted(path.name for path in lab.stack.share.iterdir())
    for request in requests:
        code, text = ask(lab, server_id, *request)
        assert code == 409 and words in text, (request, code, text)
    after = hypervisor.view(domain)
    assert (before.inactive_xml, before.state, before.reason) == (after.inactive_xml, after.state, after.reason)
    assert sorted(path.name for path in lab.stack.share.iterdir()) == names


def delete(lab: Lab, server_id: str, found: dict[str, Any]) -> None:
    code, text = ask(lab, server_id, "DELETE", f"os-assisted-snapshots/{found['id']}")
    assert code == 202, text
    wait_for(lambda: ask(lab, server_id, "GET", f"os-assisted-snapshots/{found['id']}")[0] == 404, "the deletion", 120)


def action(name: str, value: Any = None) -> tuple[str, str, Any]:
    return "POST", "action", {name: value}


def test_a_guest_whose_writes_wait_for_room(lab: Lab) -> None:
    """Paused by an I/O error: sets are crash-consistent, deletions merge, and the writes that waited come to their end."""
    first = lab.api.take(lab.guest.id, name="first")
    lab.guest.still_writes(60)
    Operator(lab).settle()  # what is written beside the files now would be written once there is room again
    filler = fill(lab.stack.share)
    with suppress(AgentFailed):  # its own writer may have needed room before
        lab.guest.execute("dd if=/dev/zero of=/mnt/vda/zero bs=1M count=8; sync", wait=False)
    wait_for(lambda: lab.guest.domain.state() == PAUSED, "the pause", 120)
    assert state(lab, lab.guest.id) == ("PAUSED", 3)
    detach = ("DELETE", f"os-volume_attachments/{lab.volumes[0]}", None)
    refused(lab, lab.guest.id, "I/O error", detach, action("os-stop"), action("pause"), action("os-start"))
    filler.unlink()
    refused(lab, lab.guest.id, "quiesce_refused", SETS[0])
    second = lab.api.take(lab.guest.id, quiesce="preferred")
    assert (second["status"], second["consistency"]["level"]) == ("available", "crash")
    content = held(lab, second)
    delete(lab, lab.guest.id, first)
    assert held(lab, second) == content
    assert state(lab, lab.guest.id) == ("PAUSED", 3)
    assert ask(lab, lab.guest.id, *action("unpause"))[0] == 202
    lab.guest.execute("rm -f /mnt/vda/zero; sync")
    lab.guest.still_writes(60)
    assert held(lab, second) == content
    delete(lab, lab.guest.id, second)
    lab.check_sound()


def test_a_guest_that_sleeps_is_left_alone(lab: Lab, spare: str) -> None:
    lab.guest.execute("echo mem > /sys/power/state", wait=False)
    wait_for(lambda: lab.guest.domain.state()[0] == libvirt.VIR_DOMAIN_PMSUSPENDED, "the sleep", 60)
    assert state(lab, lab.guest.id) == ("SUSPENDED", 7)
    attach = ("POST", "os-volume_attachments", {"volumeAttachment": {"volumeId": spare}})
    detach = ("DELETE", f"os-volume_attachments/{lab.volumes[0]}", None)
    refused(lab, lab.guest.id, "asleep", *SETS, attach, detach, action("os-stop"), action("pause"), action("os-start"))
    assert ask(lab, lab.guest.id, *action("resume"))[0] == 202
    wait_for(lambda: lab.guest.domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING, "the guest", 60)
    lab.guest.still_writes(60)


@pytest.fixture
def crashing(lab: Lab) -> Iterator[str]:
    """A server whose first disk holds no system, but a sector that tells of a crash as soon as it is booted."""
    server_id: str = lab.stack.hypervisor.connection().defineXML(CRASHING).UUIDString()
    volume = lab.api.create_volume("boots")
    handle = os.open(lab.directory / "sector", os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(handle, TELLS_OF_A_CRASH.ljust(510, b"\0") + b"\x55\xaa")
    os.close(handle)
    source = f"write -q -s {lab.directory}/sector 0 512"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", source, lab.stack.share / f"volume-{volume}"], check=True)
    lab.api.attach(server_id, volume)
    yield server_id
    domain = lab.stack.hypervisor.domain(server_id)
    if domain.isActive():
        domain.destroy()
    domain.undefine()


def test_a_crashed_guest_is_kept_for_inspection(lab: Lab, crashing: str, spare: str) -> None:
    (volume,) = attached(lab, crashing)
    first = lab.api.take(crashing, name="before the crash")
    content = held(lab, first)
    lab.stack.hypervisor.domain(crashing).create()
    wait_for(lambda: state(lab, crashing) == ("ERROR", 6), "the crash", 60)
    attach = ("POST", "os-volume_attachments", {"volumeAttachment": {"volumeId": spare}})
    detach = ("DELETE", f"os-volume_attachments/{volume}", None)
    refused(lab, crashing, "crashed", attach, detach, action("os-stop"), action("unpause"), action("os-start"))
    refused(lab, crashing, "quiesce_refused", SETS[0])
    second = lab.api.take(crashing, quiesce="preferred")
    assert (second["status"], second["consistency"]["level"]) == ("available", "crash")
    assert list(held(lab, second).values()) == list(content.values())
    delete(lab, crashing, first)
    assert list(held(lab, second).values()) == list(content.values())
    domain = lab.stack.hypervisor.domain(crashing)
    domain.destroy()
    assert state(lab, crashing) == ("SHUTOFF", 4)
    assert ask(lab, crashing, *action("os-start"))[0] == 202
    wait_for(lambda: state(lab, crashing) == ("ERROR", 6), "what it boots from, again", 60)
    assert list(held(lab, second).values()) == list(content.values())

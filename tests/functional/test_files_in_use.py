"""A file on a share that somebody uses is not taken over, and a volume that somebody's file is based on is not changed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.content import digest
from tests.support.lab import Lab, open_lab
from tests.support.stack import wait_for

GOLDEN = "golden.qcow2"
DOMAIN = """<domain type='qemu'><name>other</name><memory>65536</memory><os><type arch='x86_64'>hvm</type></os>
<devices>{}</devices></domain>"""
DISK = "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/><target dev='vda'/></disk>"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = open_lab(tmp_path_factory.mktemp("in-use"))
    yield made
    made.clear()


def qemu(program: str, *words: str, at: Path) -> None:
    subprocess.run([program, *words], cwd=at, check=True, stdout=subprocess.DEVNULL)


def make(lab: Lab, name: str = GOLDEN) -> str:
    """A foreign image; returns the digest of what it holds."""
    share = lab.stack.share
    qemu("qemu-img", "create", "-q", "-f", "qcow2", name, "1G", at=share)
    qemu("qemu-io", "-f", "qcow2", "-c", "write -P 17 2M 64k", name, at=share)
    (share / name).chmod(0o644)
    return digest(share, name)


def pool(lab: Lab) -> str:
    found: str = lab.stack.api("stillframe-admin").ok("volume", "GET", "/scheduler-stats/get_pools")["pools"][0]["name"]
    return found


def refused(lab: Lab, name: str, *words: str) -> None:
    """Listed as not safe, refused with 409, and still there under its name."""
    admin = lab.stack.api("stillframe-admin")
    path = f"/manageable_volumes/detail?host={quote(pool(lab))}"
    listed = {each["reference"]["source-name"]: each for each in admin.ok("volume", "GET", path)["manageable-volumes"]}
    assert not listed[name]["safe_to_manage"]
    body = {"volume": {"host": pool(lab), "ref": {"source-name": name}}}
    answer = admin.send("volume", "POST", "/os-volume-manage", body)
    assert answer.status_code == 409, answer.text
    for told in (listed[name]["reason_not_safe"], answer.text):
        assert all(word in told for word in words), told
    assert (lab.stack.share / name).exists()


def test_a_file_in_use_is_refused_and_a_free_one_is_taken(lab: Lab) -> None:
    share, content = lab.stack.share, make(lab)
    (share / "below").mkdir()
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-b", f"../{GOLDEN}", "-F", "qcow2", "below/clone", at=share / "below/..")
    refused(lab, GOLDEN, "below/clone is based on it")
    (share / "below/clone").unlink()
    with subprocess.Popen(
        [sys.executable, "-c", f"file = open({GOLDEN!r}); print(flush=True); input()"], cwd=share, stdin=-1, stdout=-1
    ) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        refused(lab, GOLDEN, f"(pid {reader.pid}) has it open")
        reader.communicate(b"\n")
    os.link(share / GOLDEN, lab.directory / "second-name")
    refused(lab, GOLDEN, "one name")
    (lab.directory / "second-name").unlink()
    os.symlink(share / GOLDEN, lab.directory / "link")
    connection = lab.stack.hypervisor.connection()
    domain = connection.defineXML(DOMAIN.format(DISK.format(lab.directory / "link")))
    refused(lab, GOLDEN, domain.UUIDString(), "names it")
    domain.undefine()
    body = {"volume": {"host": pool(lab), "ref": {"source-name": GOLDEN}, "name": "taken"}}
    made = lab.stack.api("stillframe-admin").ok("volume", "POST", "/os-volume-manage", body)["volume"]["id"]
    wait_for(
        lambda: lab.stack.api("stillframe-admin").ok("volume", "GET", f"/volumes/{made}")["volume"]["status"] == "available",
        "it",
    )
    assert digest(share, f"volume-{made}") == content
    assert (share / f"volume-{made}").stat().st_mode & 0o777 == 0o660
    assert not (share / GOLDEN).exists()


def test_a_volume_that_somebody_based_a_file_on_is_not_changed(lab: Lab) -> None:
    share, member = lab.stack.share, lab.stack.api()
    volume = lab.api.create_volume("based-on")
    qemu("qemu-io", "-f", "qcow2", "-c", "write -P 19 1M 64k", f"volume-{volume}", at=share)
    snapshot = member.ok("volume", "POST", "/snapshots", {"snapshot": {"volume_id": volume}})["snapshot"]["id"]
    wait_for(lambda: member.ok("volume", "GET", f"/snapshots/{snapshot}")["snapshot"]["status"] == "available", "snapshot")
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-b", f"volume-{volume}", "-F", "qcow2", "mine.qcow2", at=share)
    content = digest(share, "mine.qcow2")
    for path in (f"/snapshots/{snapshot}", f"/volumes/{volume}?cascade=true"):
        answer = member.send("volume", "DELETE", path)
        assert answer.status_code == 409, answer.text
        assert "mine.qcow2 is based on" in answer.text
    assert digest(share, "mine.qcow2") == content
    assert member.ok("volume", "GET", f"/volumes/{volume}")["volume"]["status"] == "available"
    (share / "mine.qcow2").unlink()
    assert member.send("volume", "DELETE", f"/volumes/{volume}?cascade=true").status_code == 202
    wait_for(lambda: member.send("volume", "GET", f"/volumes/{volume}").status_code == 404, "deletion")

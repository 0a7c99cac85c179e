"""Servers with iSCSI volumes, over REST: QEMU's own initiator, a real tgtd, a real guest; data is compared by content."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import yaml
from sqlalchemy import select, update

from stillframe.compute.libvirt import domain_xml
from stillframe.db.engine import Database
from stillframe.db.tables import volumes
from stillframe.host import hypervisor
from stillframe.units import GIB
from tests.functional.test_snapshot_policies import NEVER_SOON, TURN, gone, take_as, take_by
from tests.support.iscsi_site import Site, open_site
from tests.support.operator import Operator
from tests.support.pattern import CLUSTER, Pattern, of_raw
from tests.support.stack import wait_for


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("iscsi")) as opened:
        yield opened


def test_a_guest_writes_to_a_volume_that_is_attached_while_it_runs(site: Site) -> None:
    """By CHAP, with a password that nobody can read anywhere; nothing is left of it after the detachment."""
    volume_id = site.volume()
    disk = site.attach(volume_id)
    disk.write(site.guest, 3, 5, 0x5A)
    assert site.content(volume_id) == disk.clusters == dict.fromkeys(range(3, 8), 0x5A)
    info = site.info(volume_id)
    assert site.secrets() == [info["attachment_id"]]
    assert info["auth_username"] in site.guest.domain.XMLDesc(0)
    settings = str(site.lab.directory / "stillframe.conf")
    assert Operator(site.lab).document("--config-file", settings)["findings"] == []
    for where, text in readable(site):
        assert info["auth_password"] not in text, where
    site.lab.api.detach(site.guest.id, volume_id)
    assert disk.device not in site.guest.execute("ls /dev/vd?")
    assert site.secrets() == []
    assert info["target_iqn"] not in site.daemon.admin("--op", "show", "--mode", "target")
    assert site.content(volume_id) == disk.clusters


def test_a_guest_sees_the_growth_of_its_volume(site: Site) -> None:
    volume_id = site.volume()
    disk = site.attach(volume_id)
    disk.write(site.guest, 1, 1, 0x11)
    site.lab.api.ok("volume", "POST", f"/volumes/{volume_id}/action", {"os-extend": {"new_size": 2}})
    site.reached(volume_id, "in-use")
    assert site.lab.api.volume(volume_id)["size"] == 2
    wait_for(lambda: site.guest.execute(f"cat /sys/block/{disk.device[5:]}/size").strip() == str(2 * GIB // 512), "the growth")
    disk.write(site.guest, GIB // CLUSTER + 7, 2, 0x22)
    assert site.content(volume_id) == disk.clusters
    site.lab.api.detach(site.guest.id, volume_id)


def test_a_guest_waits_for_a_target_that_goes_away_and_comes_back(site: Site) -> None:
    """Its write is held back, neither lost nor refused; the password that QEMU had is the one of the new target."""
    volume_id = site.volume()
    disk = site.attach(volume_id)
    disk.write(site.guest, 0, 2, 0x31)
    site.daemon.kill()
    site.guest.execute(f"rm -f /run/written; (fill {disk.device} 4 3 {0x32}; touch /run/written) >/dev/null 2>&1 &")
    assert site.guest.execute("sleep 1; ls /run").find("written") == -1
    assert site.guest.domain.state()[0] == 1
    site.daemon.start()
    wait_for(lambda: "written" in site.guest.execute("ls /run"), "the write that waited", 90)
    assert site.content(volume_id) == {**disk.clusters, **dict.fromkeys(range(4, 7), 0x32)}
    site.lab.api.detach(site.guest.id, volume_id)


def test_a_disk_is_detached_while_its_target_is_away(site: Site) -> None:
    """The guest lets go of it; block storage gives it out to nobody as soon as the target can be asked."""
    volume_id = site.volume()
    disk = site.attach(volume_id)
    disk.write(site.guest, 0, 1, 0x41)
    site.daemon.kill()
    site.lab.api.ok("compute", "DELETE", f"/servers/{site.guest.id}/os-volume_attachments/{volume_id}")
    wait_for(lambda: disk.device not in site.guest.execute("ls /dev/vd?"), "the guest to let go", 60)
    site.daemon.start()
    site.reached(volume_id, "available", 90)
    assert site.secrets() == []
    assert site.content(volume_id) == disk.clusters


def test_a_set_of_iscsi_volumes_alone(site: Site) -> None:
    volume_id = site.volume()
    disk = site.attach(volume_id)
    disk.write(site.guest, 1, 2, 0x21)
    found = site.take(volumes=[volume_id])
    assert (found["status"], found["fault"]) == ("available", None), str(found)
    (entry,) = found["volumes"]
    assert (entry["volume_id"], entry["method"], entry["status"]) == (volume_id, "native", "available")
    assert [each["reason"] for each in found["excluded_disks"]] == ["not asked for"]
    assert of_raw(site.share / f"volume-{volume_id}.{entry['snapshot_id']}") == disk.clusters
    site.delete(found["id"])
    site.lab.api.detach(site.guest.id, volume_id)


def test_a_volume_that_was_unplugged_by_hand_is_released_by_force(site: Site) -> None:
    """Not while its server is connected; the password goes at the next look around."""
    volume_id = site.volume()
    disk = site.attach(volume_id)
    forced: tuple[str, dict[str, Any]] = (f"/volumes/{volume_id}/action", {"os-force_detach": {}})
    admin = site.lab.stack.api("stillframe-admin")
    refused = admin.send("volume", "POST", *forced)
    assert (refused.status_code, "connected to it" in refused.text) == (409, True)
    domain = site.guest.domain
    for text, flags in ((domain.XMLDesc(0), 1), (domain.XMLDesc(2), 2)):
        domain.detachDeviceFlags(domain_xml.disk_element(text, disk.device[5:]), flags)
    wait_for(lambda: disk.device not in site.guest.execute("ls /dev/vd?"), "the unplug")
    admin.ok("volume", "POST", *forced)
    site.reached(volume_id, "available")
    assert len(site.secrets()) == 1
    site.lab.stack.stop()
    site.lab.stack.start()  # what looks once a minute looks when it starts
    wait_for(lambda: site.secrets() == [], "the look around", 90)


def test_a_stopped_server_starts_only_with_current_passwords(site: Site) -> None:
    """One volume comes while it runs and one while it is stopped; libvirt forgets both passwords."""
    first, second = site.volume(), site.volume()
    disk = site.attach(first)
    disk.write(site.guest, 0, 3, 0x51)
    hypervisor.power(site.guest.domain, "destroy")
    site.lab.api.attach(site.guest.id, second)
    os.kill(int((site.lab.stack.state_dir / "libvirt/run/libvirtd.pid").read_text()), signal.SIGKILL)
    site.daemon.kill()
    assert "target_unreachable" in site.refused_start(503)
    site.daemon.start()
    infos = [site.info(each) for each in (first, second)]
    wait_for(lambda: all(site.target(each) for each in infos), "the targets", 60)
    site.spoil_password(infos[1])
    told = site.refused_start(409)
    assert "target_refused" in told and infos[1]["auth_password"] not in told
    assert site.secrets() == []  # of the first one neither: nothing is half done
    site.daemon.kill()
    site.daemon.start()
    wait_for(lambda: all(site.target(each) for each in infos), "the targets", 60)
    site.guest.console.write_text("")
    site.lab.api.ok("compute", "POST", f"/servers/{site.guest.id}/action", {"os-start": None})
    site.guest.wait_ready()
    assert sorted(site.secrets()) == sorted(each["attachment_id"] for each in infos)
    other = Pattern("/dev/vdc")
    other.write(site.guest, 5, 2, 0x52)
    disk.write(site.guest, 2, 2, 0x53)
    assert (site.content(first), site.content(second)) == (disk.clusters, other.clusters)
    for each in (first, second):
        site.lab.api.detach(site.guest.id, each)
    assert site.secrets() == []


DIES_AT = ("attach_volume/connect/effect", "attach_volume/plug/before", "attach_volume/plug/effect")
DIES_AT_LAST = ("detach_volume/unplug/effect", "detach_volume/release/before", "detach_volume/release/effect")


def test_a_worker_that_dies_leaves_neither_a_disk_nor_a_password(site: Site) -> None:
    """Whichever step it dies at, the attachment and the detachment end as they were asked for."""
    stack = site.lab.stack
    volume_id = site.volume()
    path = f"/servers/{site.guest.id}/os-volume_attachments"
    disk = Pattern("/dev/vdb")
    for comes, goes in zip(DIES_AT, DIES_AT_LAST, strict=True):
        for place, ask, status in (
            (comes, ("POST", path, {"volumeAttachment": {"volumeId": volume_id}}), "in-use"),
            (goes, ("DELETE", f"{path}/{volume_id}"), "available"),
        ):
            stack.stop()
            stack.start(place)
            stack.api().ok("compute", *ask)
            stack.wait_killed()
            stack.start()
            site.reached(volume_id, status, 90)
            assert len(site.secrets()) == (status == "in-use")
            if status == "in-use":
                wait_for(lambda: disk.device in site.guest.execute("ls /dev/vd?"), "the disk in the guest")
                disk.write(site.guest, DIES_AT.index(comes), 1, 0x61)
                assert site.content(volume_id) == disk.clusters
    assert disk.device not in site.guest.execute("ls /dev/vd?")


def readable(site: Site) -> Iterator[tuple[str, str]]:
    """What users, operators and neighbours on the host may read."""
    state = site.lab.stack.state_dir
    yield "live XML", site.guest.domain.XMLDesc(0)
    yield "definition", site.guest.domain.XMLDesc(2)
    yield "log", site.lab.stack.log.read_text()
    for path in [*state.glob("*.sqlite*"), *(state / "libvirt/log").rglob("*.log"), *(state / "libvirt/etc").rglob("*.xml")]:
        yield str(path), path.read_bytes().decode(errors="replace")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            yield str(process), (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue  # it has ended


def test_a_set_takes_files_and_iscsi_volumes_at_one_instant(site: Site) -> None:
    volume_id = site.volume()
    disk = site.attach(volume_id)
    disk.write(site.guest, 3, 5, 0x5A)
    before = dict(disk.clusters)
    found = site.take()
    assert (found["status"], found["fault"]) == ("available", None), str(found)
    assert (found["status"], found["fault"], found["consistency"]["level"]) == ("available", None, "filesystem")
    by_volume = {entry["volume_id"]: entry for entry in found["volumes"]}
    entry = by_volume[volume_id]
    assert sorted(each["method"] for each in found["volumes"]) == ["assisted", "native"]
    assert (entry["method"], entry["status"], entry["error"]) == ("native", "available", None)
    snapshot = site.lab.api.snapshot(entry["snapshot_id"])
    assert (snapshot["status"], snapshot["volume_id"]) == ("available", volume_id)
    assert snapshot["metadata"]["stillframe_set_id"] == found["id"]
    disk.write(site.guest, 20, 4, 0x11)
    assert site.content(volume_id) == disk.clusters
    assert of_raw(site.share / f"volume-{volume_id}.{entry['snapshot_id']}") == before
    assert site.scratch_left() == []
    assert "scratch" not in site.guest.domain.XMLDesc(0) + site.guest.domain.XMLDesc(2)
    site.delete(found["id"])
    assert not (site.share / f"volume-{volume_id}.{entry['snapshot_id']}").exists()
    site.lab.api.detach(site.guest.id, volume_id)


def refused_set(site: Site, status: int, code: str, **wanted: Any) -> str:
    """What is said when a set is refused."""
    path = f"/servers/{site.guest.id}/os-assisted-snapshots"
    known = site.lab.api.ok("compute", "GET", path)["assisted_snapshots"]
    answer = site.lab.api.send("compute", "POST", path, {"assisted_snapshot": wanted})
    assert (answer.status_code, code in answer.text) == (status, True), answer.text
    assert site.lab.api.ok("compute", "GET", path)["assisted_snapshots"] == known
    assert not site.guest.frozen()
    return answer.text


def test_a_set_is_refused_before_anything_is_frozen(site: Site) -> None:
    volume_id, other = site.volume(), site.volume()
    disk = site.attach(volume_id)
    disk.write(site.guest, 1, 2, 0x21)
    info = site.info(volume_id)
    refused_set(site, 400, "bad_request", volumes=[volume_id, volume_id])
    refused_set(site, 400, other, volumes=[other])
    site.daemon.kill()
    refused_set(site, 503, "target_unreachable")
    site.daemon.start()
    wait_for(lambda: site.target(info) is not None, "the target", 60)
    site.spoil_password(info)
    assert info["auth_password"] not in refused_set(site, 409, "target_refused")
    assert info["auth_password"] not in site.lab.stack.log.read_text()
    site.daemon.kill()
    site.daemon.start()
    wait_for(lambda: site.target(info) is not None, "the target", 60)
    site.scratch.mkdir(exist_ok=True)
    site.scratch.chmod(0o777)
    told = refused_set(site, 503, "scratch_unusable")
    assert "scratch_dir: the scratch directory belongs to another user" in told and str(site.scratch) not in told
    assert f"scratch_dir: {site.scratch} belongs to another user" in site.lab.stack.log.read_text()
    site.scratch.chmod(0o700)
    (site.scratch / ".share-id").touch()
    assert "scratch_dir: the scratch directory lies on a share" in refused_set(site, 503, "scratch_unusable")
    shutil.rmtree(site.scratch)
    site.scratch.touch()
    assert "scratch_dir: the scratch directory is not a directory" in refused_set(site, 503, "scratch_unusable")
    site.scratch.unlink()
    site.scratch.mkdir()
    shutil.rmtree(site.scratch)  # a missing one is made
    found = site.take()
    assert (found["status"], found["fault"]) == ("available", None), str(found)
    assert site.content(volume_id) == disk.clusters
    site.lab.api.detach(site.guest.id, volume_id)


@contextmanager
def recorded_as(site: Site, table: Any, at: Any, **values: Any) -> Iterator[None]:
    """Rows of block storage say something else for a while."""
    database = Database(f"sqlite:///{site.lab.stack.state_dir}/stillframe.sqlite")
    try:
        with database.write() as connection:
            before = dict(connection.execute(select(table).where(at)).mappings().one())
            connection.execute(update(table).where(at).values(**values))
        yield
        with database.write() as connection:
            connection.execute(update(table).where(at).values(**{name: before[name] for name in values}))
    finally:
        database.close()


@contextmanager
def block_storage_says(site: Site, said: bytes, instead: bytes) -> Iterator[None]:
    """Compute asks block storage through a relay, which changes the answers."""

    class Relay(BaseHTTPRequestHandler):
        def relay(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            own = yaml.safe_load((site.lab.stack.state_dir / "clouds.yaml").read_text())["clouds"]["stillframe"]
            to = f"http://{urlsplit(own['volume_endpoint_override']).netloc}{self.path}"
            answer = requests.request(self.command, to, headers=dict(self.headers), data=body, timeout=60)
            content = answer.content.replace(said, instead)
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = do_PUT = relay

    stack, settings = site.lab.stack, site.lab.directory / "stillframe.conf"
    usual = settings.read_text()
    with ThreadingHTTPServer(("127.0.0.1", 0), Relay) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.stop()
        settings.write_text(f"{usual}[compute]\nstorage_endpoint = http://127.0.0.1:{server.server_port}/v3\n")
        stack.start()
        try:
            yield
        finally:
            stack.stop()
            settings.write_text(usual)
            stack.start()
            server.shutdown()


def test_a_volume_of_a_backend_that_this_host_does_not_know(site: Site) -> None:
    """It is left out of a set with the reason; whoever names it is refused."""
    known, volume_id = site.lab.volumes[0], site.volume()
    disk = site.attach(volume_id)
    disk.write(site.guest, 1, 2, 0x31)
    with block_storage_says(site, b'"driver_volume_type": "local"', b'"driver_volume_type": "rbd"'):
        told = refused_set(site, 400, "bad_request", volumes=[known, volume_id])
        assert f"volume {known} (/dev/vda) is on a rbd backend, which this host does not know" in told
        found = site.take()
        assert (found["status"], found["fault"]) == ("available", None), str(found)
        assert [entry["volume_id"] for entry in found["volumes"]] == [volume_id]
        assert found["excluded_disks"] == [{"device": "/dev/vda", "reason": "on a rbd backend, which this host does not know"}]
    site.delete(found["id"])
    site.lab.api.detach(site.guest.id, volume_id)


def test_another_projects_iscsi_volume_seems_not_to_exist(site: Site) -> None:
    """Neither an attachment nor a set tells it from one that nobody has, and nothing is given out to this host."""
    volume_id, nobody = site.volume(), "11111111-2222-4333-8444-555555555555"
    paths = (f"/servers/{site.guest.id}/os-volume_attachments", f"/servers/{site.guest.id}/os-assisted-snapshots")
    with recorded_as(site, volumes, volumes.c.id == volume_id, project_id="other"):
        for path, body, status in (
            (paths[0], {"volumeAttachment": {"volumeId": "ID"}}, 404),
            (paths[1], {"assisted_snapshot": {"volumes": ["ID"]}}, 400),
        ):
            theirs, none = (
                site.lab.api.send("compute", "POST", path, json.loads(json.dumps(body).replace("ID", each)))
                for each in (volume_id, nobody)
            )
            assert (theirs.status_code, none.status_code) == (status, status), theirs.text
            assert theirs.text.replace(volume_id, nobody) == none.text
    assert site.lab.api.volume(volume_id)["attachments"] == []
    assert volume_id not in site.daemon.admin("--op", "show", "--mode", "target")


def test_a_set_of_a_volume_that_went_to_another_project_is_refused(site: Site) -> None:
    volume_id = site.volume()
    site.attach(volume_id)
    with recorded_as(site, volumes, volumes.c.id == volume_id, project_id="other"):
        refused_set(site, 404, "not_found", volumes=[volume_id])
        refused_set(site, 404, "not_found")
    site.lab.api.detach(site.guest.id, volume_id)


def test_a_policy_takes_sets_of_both_kinds_and_deletes_them(site: Site) -> None:
    """What it keeps holds what was there then, in native snapshots, too."""
    volume_id = site.volume()
    disk = site.attach(volume_id)
    disk.write(site.guest, 2, 3, 0x71)
    wanted = {"name": "nightly", "schedule": NEVER_SOON, "keep_last": 1}
    path, api = f"/servers/{site.guest.id}/os-snapshot-policies", site.lab.api
    policy_id = api.ok("compute", "POST", path, {"snapshot_policy": wanted})["snapshot_policy"]["id"]
    first = take_as(site.lab, policy_id)
    disk.write(site.guest, 2, 1, 0x72)
    held, second = disk.copy(), take_by(site.lab, policy_id)
    disk.write(site.guest, 2, 1, 0x73)
    for found in (first, second):
        assert (found["status"], found["consistency"]["level"]) == ("available", "filesystem"), str(found)
    wait_for(lambda: gone(site.lab, first["id"]), "the deletion of the older set", TURN)
    (left,) = (each["snapshot_id"] for each in second["volumes"] if each["method"] == "native")
    assert [each.name for each in site.share.glob(f"volume-{volume_id}.*-*")] == [f"volume-{volume_id}.{left}"]
    assert of_raw(site.share / f"volume-{volume_id}.{left}") == held
    assert site.content(volume_id) == disk.clusters
    api.ok("compute", "DELETE", f"/os-snapshot-policies/{policy_id}")
    site.delete(second["id"])
    api.detach(site.guest.id, volume_id)


def test_a_guest_that_dies_on_its_scratch_overlay_loses_nothing(site: Site) -> None:
    """QEMU is killed after the native snapshot and before the way back; what the guest wrote meanwhile is written back before
    the server may start."""
    volume_id = site.volume()
    disk = site.attach(volume_id)
    disk.write(site.guest, 3, 5, 0x5A)
    before = dict(disk.clusters)
    site.lab.stack.kill()
    site.lab.stack.start("assisted_snapshot/native/record:hold")
    body = {"assisted_snapshot": {"name": "mixed"}}
    made = site.lab.api.ok("compute", "POST", f"/servers/{site.guest.id}/os-assisted-snapshots", body)["assisted_snapshot"]
    # Native snapshots come after the thaw, so the guest may write once there is one.
    wait_for(lambda: any(site.share.glob(f"volume-{volume_id}.*-*")), "the native snapshot", 60)
    disk.write(site.guest, 20, 4, 0x11)
    assert site.scratch_left() == [f"scratch-{volume_id}-{made['id']}.qcow2"]
    assert site.content(volume_id) == before
    site.guest.domain.destroy()
    refused = site.lab.api.send("compute", "POST", f"/servers/{site.guest.id}/action", {"os-start": None})
    assert refused.status_code == 409
    site.lab.stack.kill()
    site.lab.stack.start()
    wait_for(lambda: site.lab.api.set(made["id"])["status"] != "creating", "the end of the set", 120)
    found = site.lab.api.set(made["id"])
    assert (found["status"], found["fault"]) == ("available", None), str(found)
    assert site.content(volume_id) == disk.clusters
    assert site.scratch_left() == []
    assert "scratch" not in site.guest.domain.XMLDesc(2)
    stopped = site.take()
    assert (stopped["status"], stopped["fault"]) == ("available", None), str(stopped)
    (entry,) = (each for each in stopped["volumes"] if each["method"] == "native")
    assert of_raw(site.share / f"volume-{volume_id}.{entry['snapshot_id']}") == disk.clusters

"""Volumes with snapshots of their own over REST: what an initiator reads and writes, and what becomes of the target."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from stillframe.chain import names
from stillframe.errors import TargetUnavailable
from stillframe.host import tgt
from tests.support import iscsi
from tests.support.image_store import ImageStore, image_store
from tests.support.iscsi import CONNECTOR, Disk, Tgtd
from tests.support.operator import stillframe, stillframe_apart
from tests.support.second_writer import GROUP
from tests.support.stack import Api, Stack, wait_for

MIB, GIB = 1 << 20, 1 << 30


@dataclass
class Site:
    """A service with an iSCSI backend and a QCOW2 one, and what is done with it."""

    stack: Stack
    daemon: Tgtd
    share: Path
    scratch: Path
    images: ImageStore

    @property
    def api(self) -> Api:
        return self.stack.api()

    @property
    def service(self) -> Api:
        return self.stack.service_api()

    def make(self, kind: str = "volume", **wanted: Any) -> str:
        made = self.accepted(self.api, f"/{kind}s", {kind: wanted})[kind]
        self.reached(kind, made["id"])
        return str(made["id"])

    def accepted(self, api: Api, path: str, body: Any) -> Any:
        """The answer to a request, sent again while housekeeping has the volume."""
        answers = []

        def free() -> bool:
            answers.append(api.send("volume", "POST", path, body))
            return answers[-1].status_code != 409

        wait_for(free, f"the acceptance of {body}")
        assert answers[-1].status_code < 400, f"{path} {body}: {answers[-1].text}"
        return answers[-1].json() if answers[-1].content else None

    def volume(self, type_name: str = "fast", **wanted: Any) -> str:
        return self.make(size=1, volume_type=type_name, **wanted)

    def reached(self, kind: str, resource_id: str, status: str = "available") -> None:
        def over() -> bool:
            shown = self.stack.api("stillframe-admin").ok("volume", "GET", f"/{kind}s/{resource_id}")[kind]
            assert not shown["status"].startswith("error"), shown
            return bool(shown["status"] == status)

        wait_for(over, f"{status} of {kind} {resource_id}")

    def act(self, volume_id: str, body: Any, status: str = "available") -> None:
        self.accepted(self.api, f"/volumes/{volume_id}/action", body)
        self.reached("volume", volume_id, status)

    def attach(self, volume_id: str, connector: Any = CONNECTOR) -> "Attached":
        wanted = {"attachment": {"volume_uuid": volume_id, "connector": connector}}
        made = self.accepted(self.service, "/attachments", wanted)["attachment"]
        self.service.ok("volume", "POST", f"/attachments/{made['id']}/action", {"os-complete": {}})
        return Attached(self, volume_id, made["id"], Disk(made["connection_info"], self.scratch))

    def gone(self, kind: str, resource_id: str) -> None:
        path = f"/{kind}s/{resource_id}"
        wait_for(lambda: self.api.send("volume", "DELETE", path).status_code != 409, f"the acceptance of the end of {path}")
        wait_for(lambda: self.api.send("volume", "GET", path).status_code == 404, f"the end of {path}")

    def make_types(self) -> None:
        """Types that choose a backend each; after a rebuild a type is there again, and its extra specs are lost."""
        admin = self.stack.api("stillframe-admin")
        known = {each["name"]: each["id"] for each in admin.ok("volume", "GET", "/types")["volume_types"]}
        for name in ("fast", "files"):
            specs = {"volume_backend_name": name}
            if name in known:
                admin.ok("volume", "POST", f"/types/{known[name]}/extra_specs", {"extra_specs": specs})
            else:
                admin.ok("volume", "POST", "/types", {"volume_type": {"name": name, "extra_specs": specs}})

    def targets(self) -> str:
        return self.daemon.admin("--op", "show", "--mode", "target")


@dataclass
class Attached:
    """A volume that is given out, until ``release``."""

    site: Site
    volume_id: str
    id: str
    disk: Disk

    def __enter__(self) -> Disk:
        return self.disk

    def __exit__(self, *_why: object) -> None:
        self.site.service.ok("volume", "DELETE", f"/attachments/{self.id}")
        self.site.reached("volume", self.volume_id)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("iscsi")
    with iscsi.reflink_place(directory, 2560) as place, iscsi.tgtd(directory) as daemon, image_store() as images:
        file = directory / "stillframe.conf"
        backends = f"[local]\nvolume_backend_name = files\n{iscsi.section('fast', place / 'share', daemon)}"
        file.write_text(f"[DEFAULT]\nenabled_backends = local,fast\n{backends}[image]\nendpoint = {images.url}\n")
        (place / "share").mkdir()
        os.chown(place / "share", 0, GROUP)
        (place / "share").chmod(0o2770)
        stack = Stack(directory / "state", ["--config-file", str(file)])
        stack.start()
        try:
            made = Site(stack, daemon, place / "share", directory, images)
            made.make_types()
            yield made
        finally:
            stack.destroy()


def test_nobody_else_puts_a_file_where_the_daemon_opens_one(site: Site) -> None:
    """The daemon follows a link in place of a volume's file: whoever attached it would read and write that file. The directory
    was one that its group might write to, as directories of shares are."""
    volume_id = site.volume()
    name = names.base_name(volume_id)
    swap = f"import os; os.rename({name!r}, 'kept'); os.symlink('/etc/hostname', {name!r})"
    rights = ["setpriv", "--reuid=65534", f"--regid={GROUP}", "--clear-groups", "--", sys.executable, "-I", "-c", swap]
    tried = subprocess.run(rights, cwd=site.share, capture_output=True, text=True, check=False)
    assert "PermissionError" in tried.stderr, tried
    with site.attach(volume_id) as disk:
        assert disk.size() == 1 << 30
    site.gone("volume", volume_id)


def test_a_volume_is_exported_to_its_initiator_and_to_nobody_after_detaching(site: Site) -> None:
    volume_id = site.volume()
    with site.attach(volume_id) as disk:
        assert disk.size() == GIB
        disk.write(7)
        assert disk.reads(7) and disk.reads(0, 1 * MIB)
        shown = Disk({**disk.info, "auth_password": "A" * 16}, site.scratch)
        assert "Authentication failure" in shown.io("length").stderr
        assert "Target not found" in Disk(disk.info, site.scratch, "iqn.1993-08.org.debian:01:other").io("length").stderr
    assert volume_id not in site.targets()
    assert "failed" in disk.io("length").stderr.lower()
    with site.attach(volume_id) as again:
        assert again.info["auth_password"] != disk.info["auth_password"]
        assert again.info["auth_username"] != disk.info["auth_username"]
        assert again.reads(7)
    site.gone("volume", volume_id)


def test_a_snapshot_of_a_volume_in_use_is_of_one_instant_and_comes_back(site: Site) -> None:
    volume_id = site.volume()
    with site.attach(volume_id) as disk:
        disk.write(1, 0, 4 * MIB)
        refused = site.api.send(
            "volume",
            "POST",
            "/snapshots",
            {"snapshot": {"volume_id": volume_id}},
            headers={"OpenStack-API-Version": "volume 3.60"},
        )
        assert refused.status_code == 400 and "force" in refused.text
        snapshot_id = site.make("snapshot", volume_id=volume_id, force=True)
        disk.write(2, 1 * MIB, 1 * MIB)
        assert disk.reads(2, 1 * MIB, 1 * MIB)
    clone = site.make(snapshot_id=snapshot_id)
    with site.attach(clone) as other:
        assert other.reads(1, 0, 4 * MIB)
        other.write(3)
    explained = site.api.ok("volume", "GET", f"/snapshots/{snapshot_id}?explain=1")["snapshot"]["deletion"]
    assert explained["possible"] and explained["bytes"] == 0, explained
    site.act(volume_id, {"revert": {"snapshot_id": snapshot_id}})
    with site.attach(volume_id) as disk:
        assert disk.reads(1, 0, 4 * MIB)
        disk.write(5)
    site.gone("snapshot", snapshot_id)
    with site.attach(volume_id) as disk:
        assert disk.reads(5) and disk.reads(1, 1 * MIB, 1 * MIB)
    for each in (volume_id, clone):
        site.gone("volume", each)
    assert [name for name in sorted(each.name for each in site.share.iterdir()) if volume_id in name or clone in name] == []


def test_a_volume_that_nobody_is_connected_to_is_reverted_while_it_is_attached(site: Site) -> None:
    volume_id = site.volume()
    with site.attach(volume_id) as disk:
        disk.write(1)
        taken = site.make("snapshot", volume_id=volume_id, force=True)
        disk.write(2)
        body = {"revert": {"snapshot_id": taken}}
        with disk.connected():
            refused = site.api.send("volume", "POST", f"/volumes/{volume_id}/action", body)
            assert refused.status_code == 409 and "is open" in refused.text, refused.text
        wait_for(lambda: "Initiator" not in site.targets(), "the end of the session")
        site.act(volume_id, body, "in-use")
        assert disk.reads(1)
        disk.write(3)
    with site.attach(volume_id) as disk:
        assert disk.reads(3)
    for kind, each in (("snapshot", taken), ("volume", volume_id)):
        site.gone(kind, each)


def test_volumes_cross_kinds_in_both_directions(site: Site) -> None:
    fast = site.volume()
    with site.attach(fast) as disk:
        disk.write(9, 3 * MIB, MIB)
    taken = site.make("snapshot", volume_id=fast)
    there = site.make(snapshot_id=taken, volume_type="files")
    assert site.api.volume(there)["volume_type"] == "files"
    taken_there = site.make("snapshot", volume_id=there)
    back = site.make(snapshot_id=taken_there, volume_type="fast", size=2)
    again = site.make(source_volid=there, volume_type="fast")
    for each, size in ((back, 2 * GIB), (again, GIB)):
        with site.attach(each) as disk:
            assert disk.size() == size and disk.reads(9, 3 * MIB, MIB) and disk.reads(0, 0, 3 * MIB)
    for kind, each in (("snapshot", taken), ("snapshot", taken_there), *(("volume", v) for v in (fast, there, back, again))):
        site.gone(kind, each)


def test_a_backup_holds_what_differs_and_is_restored_over_a_volume_and_into_a_new_one(site: Site) -> None:
    volume_id = site.volume()
    with site.attach(volume_id) as disk:
        disk.write(1, 0, 8 * MIB)
    full = site.make("backup", volume_id=volume_id)
    with site.attach(volume_id) as disk:
        disk.write(2, 4 * MIB, MIB)
        disk.write(0, 6 * MIB, MIB)
        snapshot_id = site.make("snapshot", volume_id=volume_id, force=True)
        told = site.api.ok(
            "volume",
            "POST",
            "/backups?explain=1",
            {"backup": {"volume_id": volume_id, "snapshot_id": snapshot_id, "incremental": True, "force": True}},
        )
        part = site.make("backup", volume_id=volume_id, snapshot_id=snapshot_id, incremental=True, force=True)
    assert 2 * MIB <= told["explanation"]["bytes"] // 2 < 8 * MIB, told
    shown = site.api.ok("volume", "GET", f"/backups/{part}")["backup"]
    assert shown["is_incremental"] and shown["object_count"] == 1

    def as_snapshot(disk: Disk) -> bool:
        return disk.reads(1, 0, 4 * MIB) and disk.reads(2, 4 * MIB, MIB) and disk.reads(0, 6 * MIB, MIB)

    new = site.accepted(site.api, f"/backups/{part}/restore", {"restore": {"name": "new"}})["restore"]["volume_id"]
    site.reached("volume", new)  # of the default type: a QCOW2 file
    made = site.make(source_volid=new, volume_type="fast")
    with site.attach(made) as disk:
        assert as_snapshot(disk)
    with site.attach(volume_id) as disk:
        disk.write(5, 0, 8 * MIB)
    site.accepted(site.api, f"/backups/{part}/restore", {"restore": {"volume_id": volume_id}})
    site.reached("volume", volume_id)
    with site.attach(volume_id) as disk:
        assert as_snapshot(disk)
    for kind, each in (("backup", part), ("backup", full), ("snapshot", snapshot_id), ("volume", volume_id)):
        site.gone(kind, each)
    for each in (new, made):
        site.gone("volume", each)


def test_an_image_is_made_of_a_volume_and_a_volume_of_an_image(site: Site) -> None:
    volume_id = site.volume()
    images = {}
    with site.attach(volume_id) as disk:
        disk.write(4, 2 * MIB, MIB)
    for image_format in ("raw", "qcow2"):
        body = {"os-volume_upload_image": {"image_name": image_format, "disk_format": image_format}}
        told = site.accepted(site.api, f"/volumes/{volume_id}/action", body)["os-volume_upload_image"]
        site.reached("volume", volume_id)
        images[image_format] = told["image_id"]
    with site.attach(volume_id) as disk:
        disk.write(5, 2 * MIB, MIB)
    for image_format, image_id in images.items():
        assert site.images.images[image_id]["disk_format"] == image_format
        made = site.volume(imageRef=image_id)
        with site.attach(made) as disk:
            assert disk.reads(4, 2 * MIB, MIB) and disk.reads(0, 0, 2 * MIB) and disk.reads(0, 3 * MIB, MIB)
        site.gone("volume", made)
    site.gone("volume", volume_id)


def test_a_file_becomes_a_volume_and_a_volume_a_file(site: Site) -> None:
    admin = site.stack.api("stillframe-admin")
    foreign = site.share / "foreign.img"
    with foreign.open("wb") as file:
        file.truncate(GIB)
        file.seek(MIB)
        file.write(b"\x07" * MIB)
    (host,) = (
        each["name"]
        for each in admin.ok("volume", "GET", "/scheduler-stats/get_pools")["pools"]
        if "fast" in each["name"].partition("@")[2]
    )
    listed = admin.ok("volume", "GET", f"/manageable_volumes/detail?host={quote(host)}")["manageable-volumes"]
    assert [each["reference"]["source-name"] for each in listed if each["safe_to_manage"]] == [foreign.name]
    body = {"volume": {"host": host, "ref": {"source-name": foreign.name}, "name": "taken over", "volume_type": "fast"}}
    volume_id = admin.ok("volume", "POST", "/manageable_volumes", body)["volume"]["id"]
    site.reached("volume", volume_id)
    assert not foreign.exists()
    with site.attach(volume_id) as disk:
        assert disk.size() == GIB and disk.reads(7, MIB, MIB) and disk.reads(0, 0, MIB)
        disk.write(8, MIB, MIB)
    site.accepted(admin, f"/volumes/{volume_id}/action", {"os-unmanage": {}})
    wait_for(lambda: admin.send("volume", "GET", f"/volumes/{volume_id}").status_code == 404, "the end of the volume")
    (left,) = (each for each in site.share.glob("unmanaged-*") if volume_id in each.name)
    with left.open("rb") as file:
        file.seek(MIB)
        assert file.read(MIB) == b"\x08" * MIB
    left.unlink()


def test_what_shares_blocks_counts_against_the_quota_all_the_same(site: Site) -> None:
    volume_id = site.volume()
    taken = site.make("snapshot", volume_id=volume_id)
    admin = site.stack.api("stillframe-admin")
    path = f"/os-quota-sets/{site.api.volume(volume_id)['os-vol-tenant-attr:tenant_id']}"
    used = admin.ok("volume", "GET", f"{path}?usage=true")["quota_set"]
    clone = ("/volumes", {"volume": {"size": 1, "snapshot_id": taken}})
    for limit, refused in (
        ("snapshots", [("/snapshots", {"snapshot": {"volume_id": volume_id}})]),
        ("volumes", [clone]),
        ("gigabytes", [clone, (f"/volumes/{volume_id}/action", {"os-extend": {"new_size": 2}})]),
    ):
        admin.ok("volume", "PUT", path, {"quota_set": {limit: used[limit]["in_use"]}})
        for where, body in refused:
            answer = site.api.send("volume", "POST", where, body)
            assert answer.status_code == 413 and limit in answer.text, answer.text
        admin.ok("volume", "PUT", path, {"quota_set": {limit: used[limit]["limit"]}})
    assert len(list(site.share.glob(f"volume-{volume_id}.*-*"))) == 1
    assert site.api.volume(volume_id)["size"] == 1
    for kind, each in (("snapshot", taken), ("volume", volume_id)):
        site.gone(kind, each)


def test_a_volume_grows_while_it_is_attached_and_while_it_is_not(site: Site) -> None:
    volume_id = site.volume()
    site.act(volume_id, {"os-extend": {"new_size": 2}})
    with site.attach(volume_id) as disk:
        assert disk.size() == 2 * GIB
        # Writes are under way all the time; whoever is connected connects again, and misses none.
        writes = [f"aio_write -P {number % 250 + 1} {number % 200}M 1M" for number in range(600)]
        with ThreadPoolExecutor(1) as helper:
            written = helper.submit(disk.io, *writes, "aio_flush")
            site.act(volume_id, {"os-extend": {"new_size": 3}}, "in-use")
            assert disk.size() == 3 * GIB
            done = written.result()
        assert "failed" not in done.stdout + done.stderr and done.stdout.count("wrote") == 600, done
        assert all(disk.reads(number % 250 + 1, number % 200 * MIB, MIB) for number in range(590, 600))
    site.gone("volume", volume_id)


def test_the_daemon_answers_as_it_is_expected_to(site: Site) -> None:
    """Its words for what is there already, or not any more, are numbers that no document promises."""
    daemon = tgt.Daemon(site.daemon.socket)
    path = site.scratch / "unit"
    path.write_bytes(b"")
    os.truncate(path, GIB)
    wanted = tgt.Export("iqn.2010-10.org.openstack:alone", path, GIB, "serial", iscsi.INITIATOR, "somebody", "A" * 16)
    daemon.withdraw(wanted.name)
    site.daemon.admin("--op", "new", "--mode", "account", "--user", "somebody", "--password", "B" * 16)
    for _ in range(2):
        daemon.export(wanted)
        assert daemon.targets()[wanted.name].gives(wanted)
    info = {"target_portal": f"127.0.0.1:{site.daemon.port}", "target_iqn": wanted.name, "target_lun": tgt.LUN}
    disk = Disk({**info, "auth_username": "somebody", "auth_password": "A" * 16}, site.scratch)
    with disk.connected():
        assert daemon.targets()[wanted.name].sessions == (f"{iscsi.INITIATOR} at 127.0.0.1",)
    assert daemon.pid() == site.daemon.pid
    site.daemon.admin(
        "--op", "unbind", "--mode", "account", "--tid", str(daemon.targets()[wanted.name].tid), "--user", "somebody"
    )
    daemon.export(wanted)
    assert disk.size() == GIB
    site.daemon.admin("--op", "delete", "--mode", "account", "--user", "somebody")
    for _ in range(2):
        daemon.withdraw(wanted.name)
    with pytest.raises(TargetUnavailable, match="cannot be opened"):
        daemon.export(dataclasses.replace(wanted, path=site.scratch / "none"))
    assert wanted.name not in daemon.targets()


def test_a_target_daemon_that_died_gets_its_targets_again(site: Site) -> None:
    volume_id, other = site.volume(), site.volume()
    attached = site.attach(volume_id)
    with attached as disk:
        disk.write(6)
        site.daemon.kill()
        answer = site.service.send(
            "volume", "POST", "/attachments", {"attachment": {"volume_uuid": other, "connector": CONNECTOR}}
        )
        assert answer.status_code == 503 and "systemctl start tgt" in answer.text, answer.text
        site.daemon.start()
        wait_for(lambda: volume_id in site.targets(), "the target", 60)
        wait_for(lambda: disk.io("length").returncode == 0, "the disk")
        assert disk.reads(6)
        # An orphan: a target of ours that no attachment asks for.
        path = next(site.share.glob(f"volume-{other}*"))
        name = f"iqn.2010-10.org.openstack:volume-{other}"
        site.daemon.admin("--op", "new", "--mode", "target", "--tid", "77", "--targetname", name)
        site.daemon.admin("--op", "new", "--mode", "logicalunit", "--tid", "77", "--lun", "1", "--backing-store", str(path))
        assert name in site.targets()
        wait_for(lambda: name not in site.targets(), "the end of the orphan", 60)
    for each in (volume_id, other):
        site.gone("volume", each)


def test_a_volume_somebody_is_connected_to_is_not_released_by_force(site: Site) -> None:
    volume_id = site.volume()
    attached = site.attach(volume_id)
    admin = site.stack.api("stillframe-admin")
    with attached.disk.connected():
        body = {"os-force_detach": {"attachment_id": attached.id}}
        answer = admin.send("volume", "POST", f"/volumes/{volume_id}/action", body)
        assert answer.status_code == 409 and "is connected to it" in answer.text, answer.text
        assert attached.disk.reads(0)
    admin.ok("volume", "POST", f"/volumes/{volume_id}/action", {"os-force_detach": {"attachment_id": attached.id}})
    site.reached("volume", volume_id)
    assert volume_id not in site.targets()
    site.gone("volume", volume_id)


def test_bad_connectors_and_kinds_are_refused_before_anything_is_touched(site: Site) -> None:
    volume_id = site.volume()
    for connector in (
        {"ip": "127.0.0.1"},
        {"initiator": "iqn"},
        {"initiator": "iqn.1993-08.org:a,password=x"},
        {"initiator": 7},
    ):
        wanted = {"attachment": {"volume_uuid": volume_id, "connector": connector}}
        answer = site.service.send("volume", "POST", "/attachments", wanted)
        assert answer.status_code == 400 and "initiator" in answer.text, answer.text
    assert site.api.volume(volume_id)["status"] == "available"
    with site.attach(volume_id):
        answer = site.service.send("volume", "POST", f"/volumes/{volume_id}/action", {"os-create_snapshot_metadata": {}})
        assert answer.status_code == 400 and "POST /snapshots" in answer.text, answer.text
    site.gone("volume", volume_id)


def test_only_services_see_secrets(site: Site) -> None:
    """No command line, log, member's answer, row or operation holds a password."""
    volume_id, seen = site.volume(), set[str]()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for place in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    seen.add(place.read_bytes().decode(errors="replace"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    secrets = []
    try:
        for _ in range(5):
            attached = site.attach(volume_id)
            with attached as disk:
                secrets += [disk.info["auth_password"], (site.stack.state_dir / "chap.key").read_bytes().hex()]
                answer = site.api.send("volume", "GET", f"/attachments/{attached.id}")
                assert "auth_password" not in answer.text and "auth_username" not in answer.text, answer.text
    finally:
        stop.set()
        watcher.join()
    assert len({*secrets}) == 6
    operations = stillframe("operation", "list", "--all", "--state-dir", str(site.stack.state_dir))
    assert operations.code == 0, operations
    files = [each for each in site.stack.state_dir.glob("*") if each.is_file() and each.name != "chap.key"]
    texts = {str(each): each.read_bytes().decode(errors="replace") for each in (*files, site.stack.log, site.daemon.log)}
    for secret in secrets:
        assert not [words for words in seen if secret in words]
        assert not [name for name, text in texts.items() if secret in text]
        assert secret not in operations.out
    assert (site.stack.state_dir / "chap.key").stat().st_mode & 0o777 == 0o600
    site.gone("volume", volume_id)


def test_a_lost_database_is_rebuilt_from_the_share(site: Site) -> None:
    volume_id, file = site.volume(name="ledger"), site.stack.state_dir.parent / "stillframe.conf"
    with site.attach(volume_id) as disk:
        disk.write(1, 0, 2 * MIB)
        kept, older = (site.make("snapshot", volume_id=volume_id, force=True, name=name) for name in ("kept", "older"))
        disk.write(2, 0, 2 * MIB)
    site.gone("snapshot", older)
    site.act(volume_id, {"os-extend": {"new_size": 2}})
    wait_for(lambda: '"size": 2' in (site.share / f"volume-{volume_id}.record").read_text(), "the record")
    over = ["--config-file", str(file), "--state-dir", str(site.stack.state_dir)]
    name, other = f"iqn.2010-10.org.openstack:volume-{volume_id}", site.volume()
    attached = site.attach(other)
    site.stack.stop()
    # No worker is there to put these right: a target that no attachment asks for, and none where one does.
    number = next(line for line in site.targets().splitlines() if other in line and line.startswith("Target ")).split()[1][:-1]
    site.daemon.admin("--op", "delete", "--mode", "target", "--tid", number, "--force")
    path = str(next(site.share.glob(f"volume-{volume_id}")))
    site.daemon.admin("--op", "new", "--mode", "target", "--tid", "88", "--targetname", name)
    site.daemon.admin("--op", "new", "--mode", "logicalunit", "--tid", "88", "--lun", "1", "--backing-store", path)
    found = json.loads(stillframe("doctor", *over, "--format", "json").out)["findings"]
    kinds = {(each["kind"], each["volume_id"]) for each in found}
    assert {("orphan_target", volume_id), ("missing_target", other)} <= kinds, found
    site.stack.start()
    wait_for(lambda: name not in site.targets() and other in site.targets(), "the targets as the attachments say", 60)
    with attached:
        pass
    site.gone("volume", other)
    wait_for(lambda: not (site.share / f"volume-{other}.record").exists(), "the end of the record")
    site.stack.stop()
    for each in site.stack.state_dir.glob("stillframe.sqlite*"):
        each.unlink()
    done = stillframe_apart("rebuild", *over, "--share", str(site.share))
    assert done.code == 0, done
    site.stack.start()
    site.make_types()
    assert (site.api.volume(volume_id)["name"], site.api.volume(volume_id)["size"]) == ("ledger", 2)
    assert site.api.snapshot(kept)["name"] == "kept"
    assert site.api.send("volume", "GET", f"/snapshots/{older}").status_code == 404
    judged = stillframe("doctor", *over)
    assert "no findings" in judged.out or judged.code == 0, judged
    with site.attach(volume_id) as disk:
        assert disk.size() == 2 * GIB and disk.reads(2, 0, 2 * MIB)
        stray = site.share / f"volume-{volume_id}.{'5' * 8}-5555-4555-8555-{'5' * 12}"
        stray.write_bytes(b"")
        judged = stillframe("doctor", *over)
        assert stray.name in judged.out and "orphan_file" in judged.out, judged
        assert "missing_target" not in judged.out and "orphan_target" not in judged.out
        stray.unlink()
    site.gone("snapshot", kept)
    site.gone("volume", volume_id)


def test_the_doctor_tells_of_sessions_and_snapshots_that_nobody_wants(site: Site) -> None:
    volume_id, stranger = site.volume(), f"{iscsi.INITIATOR}-of-somebody"
    over = ["--config-file", str(site.stack.state_dir.parent / "stillframe.conf"), "--state-dir", str(site.stack.state_dir)]
    with site.attach(volume_id) as disk:
        disk.write(7)
        labels = {"stillframe_set_id": str(uuid.uuid4())}
        taken = site.make("snapshot", volume_id=volume_id, force=True, metadata=labels)
        site.stack.stop()  # the worker would make the target again
        named = (line for line in site.targets().splitlines() if line.startswith("Target ") and line.endswith(volume_id))
        (tid,) = (line.split()[1][:-1] for line in named)
        site.daemon.admin("--op", "bind", "--mode", "target", "--tid", tid, "--initiator-name", stranger)
        with Disk(disk.info, site.scratch, stranger).connected():
            found = json.loads(stillframe("doctor", *over, "--format", "json").out)["findings"]
        site.stack.start()
        by_kind = {each["kind"]: each for each in found if each["volume_id"] == volume_id}
        assert stranger in by_kind["foreign_session"]["what"], found
        assert by_kind["snapshot_of_no_set"]["snapshot_id"] == taken, found
    site.gone("snapshot", taken)
    site.gone("volume", volume_id)


def test_a_file_system_that_cannot_share_blocks_is_refused_at_the_start(site: Site, tmp_path: Path) -> None:
    file, share = tmp_path / "stillframe.conf", tmp_path / "share"
    file.write_text(f"[DEFAULT]\nenabled_backends = fast\n{iscsi.section('fast', share, site.daemon)}")
    words = ["serve", "--config-file", str(file), "--state-dir", str(tmp_path / "state"), "--volumes-port", "0"]
    said = stillframe_apart(*words, "--compute-port", "0")
    assert said.code != 0 and "cannot share blocks" in said.complaint and "reflink=1" in said.complaint, said
    assert "Traceback" not in said.complaint and list(share.glob("volume-*")) == []


def test_an_impossible_request_is_refused_and_nothing_is_changed(site: Site) -> None:
    volume_id = site.volume()
    path = site.share / f"volume-{volume_id}"
    away = path.rename(site.share / "away")
    wanted = {"attachment": {"volume_uuid": volume_id, "connector": CONNECTOR}}
    answer = site.service.send("volume", "POST", "/attachments", wanted)
    assert answer.status_code == 409 and "is missing on the share" in answer.text, answer.text
    away.rename(path)
    assert site.api.volume(volume_id)["status"] == "available"
    with site.attach(volume_id) as disk:
        disk.write(1)
        filler = site.share.parent / "filler"
        free = os.statvfs(site.share)
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - 16 * MIB)
        body = {"snapshot": {"volume_id": volume_id, "force": True}}
        answer = site.api.send("volume", "POST", "/snapshots", body)
        assert answer.status_code == 503 and "is full" in answer.text, answer.text
        assert disk.reads(1)
        os.truncate(filler, 0)  # what is only unlinked XFS frees later
        filler.unlink()
        taken = site.make("snapshot", **body["snapshot"])
    for kind, each in (("snapshot", taken), ("volume", volume_id)):
        site.gone(kind, each)

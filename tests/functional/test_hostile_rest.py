"""Hostile files through every REST verb that touches a file, on services that run: each is refused or ends in error.

A canary lies beside the share and must appear in no answer and no file; one port is watched all the time, on which nobody
may knock. What each function of the host room does with each case is in ``test_hostile_headers``.
"""

import hashlib
import json
import os
import select
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from stillframe.chain.names import base_name, overlay_name, record_name
from stillframe.volumes.backups import manifest
from stillframe.volumes.backups.manifest import StoredObject
from tests.support import qemu_io
from tests.support.careless_images import CarelessImages, careless_images
from tests.support.hostile import CANARY, Fate, Hostile, Place, battery
from tests.support.lab import open_lab
from tests.support.operator import Operator, Said, stillframe
from tests.support.stack import Api, wait_for

BATTERY = battery()
IN_PLACE = [case for case in BATTERY if case.fate is Fate.REFUSE and case.format == "qcow2" and not case.header_only]
GUESTS = [case for case in BATTERY if case.name.startswith("guest-")]
CONFIGURATION = """
[DEFAULT]
enabled_backends = local, rawfiles
[volumes]
share_dir = {0}/share
backup_url = file://{0}/backups
[rawfiles]
share_dir = {0}/raw
volume_format = raw
volume_backend_name = rawfiles
[image]
endpoint = {1}
"""
UNDER_WAY = ("creating", "deleting", "extending", "uploading", "downloading", "backing-up", "restoring-backup", "restoring")
CONNECTOR = {"host": "h", "ip": "127.0.0.1", "initiator": "i"}


@dataclass
class Site:
    """The services, what aims at them, and everything they said."""

    operator: Operator
    directory: Path
    images: CarelessImages
    door: socket.socket
    said: list[str] = field(default_factory=list)

    @property
    def share(self) -> Path:
        return self.directory / "share"

    @property
    def raw_share(self) -> Path:
        return self.directory / "raw"

    @property
    def canary(self) -> Path:
        return self.directory / "canary"

    def place(self, name: str, directory: Path | None = None) -> Place:
        return Place(directory or self.share, name, self.canary, self.door.getsockname()[1])

    @cached_property
    def users(self) -> tuple[Api, Api]:
        """The member and the administrator, who keep their connections."""
        return self.operator.api, self.operator.lab.stack.api("stillframe-admin")

    def send(self, method: str, path: str, body: Any = None, admin: bool = False) -> requests.Response:
        answer = self.users[admin].send("volume", method, path, body)
        self.said.append(answer.text)
        return answer

    def ok(self, method: str, path: str, body: Any = None, admin: bool = False) -> Any:
        answer = self.send(method, path, body, admin)
        assert answer.status_code < 400, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def status(self, kind: str, resource_id: str) -> str:
        return str(self.ok("GET", f"/{kind}s/{resource_id}")[kind]["status"])

    def ended(self, kind: str, resource_id: str) -> str:
        wait_for(lambda: self.status(kind, resource_id) not in UNDER_WAY, f"the end of {kind} {resource_id}", 60)
        return self.status(kind, resource_id)

    def ask(self, **wanted: Any) -> str:
        """Asks for a volume; returns its id."""
        return str(self.ok("POST", "/volumes", {"volume": wanted})["volume"]["id"])

    def volume(self, **wanted: Any) -> str:
        made = self.ask(size=1, **wanted)
        assert self.ended("volume", made) == "available"
        self.operator.settle()
        return made

    def snapshot(self, volume_id: str) -> str:
        return self.operator.snapshot(volume_id)

    def backup(self, volume_id: str) -> str:
        made = str(self.ok("POST", "/backups", {"backup": {"volume_id": volume_id}})["backup"]["id"])
        assert self.ended("backup", made) == "available"
        self.operator.settle()
        return made

    def doctor(self, *more: str) -> Said:
        found = self.operator.run(["doctor"], "--config-file", str(self.directory / "stillframe.conf"), *more)
        self.said.append(found.out + found.complaint)
        return found

    def check_contained(self) -> None:
        """Nobody knocked, and what the canary holds was neither changed nor seen anywhere."""
        assert not select.select([self.door], [], [], 0)[0], "a connection was opened"
        assert self.canary.read_bytes() == CANARY
        mark = CANARY[:24]
        assert not [text for text in self.said if mark.decode() in text]
        assert not [image_id for image_id, content in self.images.content.items() if mark in content]
        for root in (self.share, self.raw_share, self.directory / "backups", self.operator.state):
            leaked = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink() and _holds(path, mark)]
            assert not leaked


def _holds(path: Path, mark: bytes) -> bool:
    """Reads what a file of any length really holds."""
    with path.open("rb") as file:
        at = 0
        while True:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return False
            if mark in os.pread(file.fileno(), (1 << 20) + 64, at):
                return True
            at += 1 << 20


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    for name in ("share", "raw"):
        (directory / name).mkdir()
        (directory / name).chmod(0o2770)
    (directory / "canary").write_bytes(CANARY)
    with careless_images() as images, socket.create_server(("127.0.0.1", 0)) as door:
        lab = open_lab(directory, CONFIGURATION.format(directory, images.url))
        try:
            made = Site(Operator(lab), directory, images, door)
            project = lab.api.ok("volume", "GET", "/volumes?limit=1") and "demo"
            unlimited = dict.fromkeys(("volumes", "snapshots", "gigabytes", "backups", "backup_gigabytes"), -1)
            made.ok("PUT", f"/os-quota-sets/{project}", {"quota_set": unlimited}, admin=True)
            types = {"plain": {"volume_backend_name": "local"}, "raw": {"volume_backend_name": "rawfiles"}}
            types["linked"] = {"volume_backend_name": "local", "stillframe:linked_clone": "true"}
            for name, specs in types.items():
                made.ok("POST", "/types", {"volume_type": {"name": name, "extra_specs": specs}}, admin=True)
            yield made
        finally:
            lab.clear()


@dataclass
class Victim:
    """A volume of two files and a backup, whose files are replaced."""

    site: Site
    id: str
    snapshot: str
    backup: str

    @property
    def active(self) -> str:
        return overlay_name(self.id, self.snapshot)

    @property
    def frozen(self) -> str:
        """The file that holds the snapshot."""
        return self.site.operator.lab.snapshot_file(self.id, self.snapshot)

    @contextmanager
    def replaced(self, name: str, case: Hostile) -> Iterator[None]:
        """The file is away and a hostile one lies at its name. Afterwards nothing may have come to the share."""
        share, aside = self.site.share, self.site.directory / "aside"
        before = set(os.listdir(share))
        (share / name).rename(aside)
        try:
            case.build(self.site.place(name))
            theirs = set(os.listdir(share))
            yield
            assert set(os.listdir(share)) == theirs
        finally:
            _remove(share, {name} | (set(os.listdir(share)) - before))
            aside.rename(share / name)

    def row(self) -> Any:
        return self.site.ok("GET", f"/volumes/{self.id}")["volume"]


@pytest.fixture(scope="module")
def victim(site: Site) -> Victim:
    volume_id = site.volume(volume_type="plain")
    qemu_io.write(site.share, base_name(volume_id), b"honest")
    backup = site.backup(volume_id)
    return Victim(site, volume_id, site.snapshot(volume_id), backup)


Verb = Callable[[Victim], tuple[str, str, Any]]


def _action(name: str, body: Callable[[Victim], Any]) -> Verb:
    return lambda v: ("POST", f"/volumes/{v.id}/action", {name: body(v)})


# Every request that reads or changes a volume's active file.
ON_THE_ACTIVE: dict[str, Verb] = {
    "snapshot": lambda v: ("POST", "/snapshots", {"snapshot": {"volume_id": v.id}}),
    "clone": lambda v: ("POST", "/volumes", {"volume": {"source_volid": v.id}}),
    "extend": _action("os-extend", lambda _v: {"new_size": 2}),
    "revert": _action("revert", lambda v: {"snapshot_id": v.snapshot}),
    "upload": _action("os-volume_upload_image", lambda _v: {"image_name": "i", "disk_format": "raw"}),
    "back up": lambda v: ("POST", "/backups", {"backup": {"volume_id": v.id}}),
    "back up what changed": lambda v: ("POST", "/backups", {"backup": {"volume_id": v.id, "incremental": True}}),
    "restore over": lambda v: ("POST", f"/backups/{v.backup}/restore", {"restore": {"volume_id": v.id}}),
    "delete the snapshot": lambda v: ("DELETE", f"/snapshots/{v.snapshot}", None),
    "attach": lambda v: (
        "POST",
        "/attachments",
        {"attachment": {"volume_uuid": v.id, "instance_uuid": None, "connector": CONNECTOR}},
    ),
}
# Every request that reads the file behind it, which holds the snapshot.
ON_THE_SNAPSHOT: dict[str, Verb] = {
    **ON_THE_ACTIVE,
    "volume of the snapshot": lambda v: ("POST", "/volumes", {"volume": {"snapshot_id": v.snapshot}}),
    "link to the snapshot": lambda v: ("POST", "/volumes", {"volume": {"snapshot_id": v.snapshot, "volume_type": "linked"}}),
    "back the snapshot up": lambda v: ("POST", "/backups", {"backup": {"volume_id": v.id, "snapshot_id": v.snapshot}}),
}


@pytest.mark.parametrize("where", ["active", "frozen"])
def test_a_hostile_file_in_the_place_of_a_volumes_own_is_refused_by_every_verb(site: Site, victim: Victim, where: str) -> None:
    """Each file goes through a third of the verbs, in turn, so each verb meets a third of the files."""
    verbs = list((ON_THE_ACTIVE if where == "active" else ON_THE_SNAPSHOT).items())
    name, before = getattr(victim, where), victim.row()
    content = (site.share / name).read_bytes()
    wrong: list[str] = []
    for number, case in enumerate(IN_PLACE if where == "active" else IN_PLACE[::3]):
        with victim.replaced(name, case):
            for label, verb in verbs[number % 3 :: 3]:
                answer = site.send(*verb(victim))
                if not 400 <= answer.status_code < 500:
                    wrong.append(f"{case.name}, {label}: {answer.status_code} {answer.text}")
            site.ok("GET", f"/volumes/{victim.id}/stillframe-chain", admin=True)
        if wrong:
            break
    assert not wrong
    site.operator.settle()
    assert victim.row() == before
    assert (site.share / name).read_bytes() == content
    site.check_contained()


def test_what_a_guest_wrote_on_a_raw_volume_is_bytes_to_every_verb(site: Site) -> None:
    """All disks at once; each verb reads the disk, and what it makes of it holds the same bytes and no more."""
    disks: dict[str, bytes] = {}
    for case in GUESTS:
        volume_id = site.ask(size=1, volume_type="raw")
        assert site.ended("volume", volume_id) == "available"
        case.build(site.place("written"))
        written = (site.share / "written").read_bytes()
        (site.share / "written").unlink()
        with (site.raw_share / base_name(volume_id)).open("r+b") as file:
            file.write(written)
        disks[volume_id] = written
    site.operator.settle()
    for key in disks:
        site.ok("POST", f"/volumes/{key}/action", {"os-volume_upload_image": {"image_name": key, "disk_format": "qcow2"}})
    ended(site, "volume", *disks)
    uploaded = {site.images.told[each]["name"]: content for each, content in site.images.content.items()}
    backups = {key: site.ok("POST", "/backups", {"backup": {"volume_id": key}})["backup"]["id"] for key in disks}
    ended(site, "backup", *backups.values())
    for key in disks:
        site.ok("POST", f"/volumes/{key}/action", {"os-extend": {"new_size": 2}})
    ended(site, "volume", *disks)
    site.operator.settle()
    copies = {key: site.ask(source_volid=key) for key in disks}
    restored = {key: site.ask(backup_id=backups[key], size=1, volume_type="raw") for key in disks}
    ended(site, "volume", *copies.values(), *restored.values())
    for key, written in disks.items():
        (site.directory / "packed").write_bytes(uploaded[key])
        unpack = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", "packed", "unpacked"]
        subprocess.run(unpack, cwd=site.directory, check=True)
        assert _head(site.directory / "unpacked", len(written)) == written
        for made in (copies[key], restored[key]):
            assert _head(site.raw_share / base_name(made), len(written)) == written
    site.check_contained()


def _head(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)


def ended(site: Site, kind: str, *made: str, status: str = "available") -> None:
    """Waits for all of them."""
    assert {each: site.ended(kind, each) for each in made} == dict.fromkeys(made, status)


def test_a_hostile_image_becomes_no_volume(site: Site) -> None:
    """From an image service that looks at nothing, with hashes that are right."""
    refused: list[str] = []
    taken: list[str] = []
    for case in BATTERY:
        place = site.place("image", site.directory)
        case.build(place)
        if _is_content(place.path):
            image = site.images.add(place.path.read_bytes(), case.format)
            wanted = {"size": 1, "imageRef": image, "volume_type": "plain", "name": case.name}
            answer = site.send("POST", "/volumes", {"volume": wanted})
            assert answer.status_code in (202, 400), answer.text
            if answer.status_code == 202:
                (taken if case.importable else refused).append(answer.json()["volume"]["id"])
        _clear(site.directory, {"share", "raw", "canary", "state", "state.log", "stillframe.conf", "backups", "pattern"})
    wrong = [made for made in refused if site.ended("volume", made) != "error"]
    assert not [site.ok("GET", f"/volumes/{made}")["volume"]["name"] for made in wrong]
    assert len(refused) > 150
    found = {site.ended("volume", each) for each in taken}
    assert found <= {"available", "error"}
    assert not [name for name in os.listdir(site.share) if any(each in name for each in refused)]
    faults = [site.ok("GET", f"/volumes/{each}")["volume"]["fault"] for each in refused]
    assert all(faults), "a volume in error says why"
    site.check_contained()


def _is_content(path: Path) -> bool:
    """What is hostile about the others is no content: links, special files."""
    return path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1 and path.stat().st_size < 1 << 24


def _clear(directory: Path, kept: set[str]) -> None:
    _remove(directory, set(os.listdir(directory)) - kept)


def _remove(directory: Path, entries: Iterable[str]) -> None:
    for path in (directory / name for name in entries):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


@pytest.mark.parametrize("forged", [False, True])
def test_a_hostile_object_in_the_place_of_a_backups_own_is_never_restored(site: Site, forged: bool) -> None:
    """By somebody who may write into the store; ``forged``: who writes the manifest anew too, with the object's hash."""
    volume_id = site.volume(volume_type="plain")
    backup, spare = site.backup(volume_id), site.directory / "planted"
    store = next((site.directory / "backups").rglob(f"volume-{volume_id}"))
    listing, stored = store / f"backup-{backup}.json", store / f"backup-{backup}.qcow2"
    honest = manifest.parse(listing.read_bytes(), volume_id, backup)
    for case in [case for case in IN_PLACE if not case.alone][:: 3 if forged else 12]:
        spare.mkdir()
        case.build(site.place("object", spare))
        stored.unlink()
        shutil.move(spare / "object", stored)
        if forged and stored.is_file():
            content = stored.read_bytes() or b"x"
            stored.write_bytes(content)
            entry = StoredObject(stored.name, len(content), hashlib.sha256(content).hexdigest())
            listing.write_bytes(manifest.serialise(replace(honest, objects=(entry,))))
        answer = site.send("POST", f"/backups/{backup}/restore", {"restore": {"name": case.name}})
        if answer.status_code >= 400:
            assert answer.status_code < 500, (case.name, answer.text)
        else:
            made = answer.json()["restore"]["volume_id"]
            assert site.ended("volume", made) in ("error", "error_restoring"), case.name
            assert site.ok("GET", f"/volumes/{made}")["volume"]["fault"]
        shutil.rmtree(spare)
        if stored.is_dir() and not stored.is_symlink():
            stored.rmdir()
            stored.touch()
    site.check_contained()


def test_a_hostile_file_on_a_share_is_not_taken_over_and_told(site: Site) -> None:
    host = next(
        pool["name"]
        for pool in site.ok("GET", "/scheduler-stats/get_pools", admin=True)["pools"]
        if pool["name"].endswith(str(site.share))
    )
    wrong = []
    for case in [case for case in BATTERY if case.fate is Fate.REFUSE and not case.header_only]:
        before = set(os.listdir(site.share))
        case.build(site.place("planted"))
        ref = {"source-name": "planted", "format": case.format}
        for path in ("manageable_volumes", "os-volume-manage"):
            answer = site.send("POST", f"/{path}", {"volume": {"host": host, "ref": ref}}, admin=True)
            if not 400 <= answer.status_code < 500:
                wrong.append(f"{case.name}: {answer.status_code} {answer.text}")
        told = site.ok("GET", f"/manageable_volumes/detail?host={quote(host)}", admin=True)["manageable-volumes"]
        entry = [each for each in told if each["reference"]["source-name"] == "planted"]
        if case.format == "qcow2" and entry and entry[0]["safe_to_manage"]:
            wrong.append(f"{case.name} is said to be safe")
        _remove(site.share, set(os.listdir(site.share)) - before)
    assert not wrong
    site.check_contained()


def test_the_doctor_names_every_hostile_file_and_leaves_it(site: Site, victim: Victim) -> None:
    before, planted = set(os.listdir(site.share)), {}
    for case in [case for case in IN_PLACE if case.name != "chain-of-300"]:
        planted[case.name] = str(uuid.uuid4())
        case.build(site.place(base_name(planted[case.name])))
    try:
        with victim.replaced(victim.active, IN_PLACE[0]):
            told = site.doctor("--older-than", "0").out
            assert victim.active in told
            assert not {case: found for case, found in planted.items() if found not in told}
            site.doctor("--older-than", "0", "--fix", "--yes")
            assert (site.share / victim.active).exists()
    finally:
        _remove(site.share, set(os.listdir(site.share)) - before)
    assert victim.row()["status"] == "available"
    site.check_contained()


def test_a_share_of_hostile_files_is_rebuilt_to_nothing(site: Site, tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir(mode=0o2770)
    share.chmod(0o2770)
    honest = site.volume(volume_type="plain")
    shutil.copy(site.share / base_name(honest), share)
    for case in [case for case in IN_PLACE if case.name != "chain-of-300"]:
        case.build(site.place(base_name(str(uuid.uuid4())), share))
    options = ["--state-dir", str(tmp_path / "state"), "--share", str(share), "--base-format", "qcow2", "-f", "json"]
    (tmp_path / "conf").write_text(f"[volumes]\nshare_dir = {share}\n")
    said = stillframe("rebuild", "--config-file", str(tmp_path / "conf"), *options)
    site.said.append(said.out + said.complaint)
    assert [each["id"] for each in json.loads(said.out)["volumes"]] == [honest], said
    site.check_contained()


@pytest.mark.parametrize("case", IN_PLACE[::10], ids=lambda case: case.name)
def test_a_volume_whose_file_is_hostile_can_be_deleted_and_only_it_goes(site: Site, case: Hostile) -> None:
    volume_id = site.volume(volume_type="plain")
    (site.share / base_name(volume_id)).unlink()
    before = set(os.listdir(site.share))
    case.build(site.place(base_name(volume_id)))
    site.ok("DELETE", f"/volumes/{volume_id}")
    told: dict[str, Any] = {"status": "deleting"}

    def over() -> bool:
        answer = site.send("GET", f"/volumes/{volume_id}")
        told.update(answer.json().get("volume", {"status": "gone"}))
        return bool(told["status"] != "deleting")

    wait_for(over, "the end of the deletion")
    assert told["status"] == "gone" or told["fault"], told
    assert before <= set(os.listdir(site.share)) | {record_name(volume_id)}
    _remove(site.share, set(os.listdir(site.share)) - before)
    site.check_contained()

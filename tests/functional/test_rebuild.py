"""The database is lost; the shares are not. What comes back is held against what was lost, column by column, and used."""

import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from stillframe.chain.names import overlay_name
from stillframe.db import backups, snapshots, volume_types, volumes
from stillframe.db.engine import Database
from stillframe.db.queries import Page
from stillframe.db.rows import VolumeRow
from stillframe.db.tables import snapshots as snapshots_table
from stillframe.db.tables import volumes as volumes_table
from stillframe.host import copies, files
from stillframe.host.copies import Source
from tests.support.lab import Lab, open_lab
from tests.support.operator import Operator, Said, stillframe_apart
from tests.support.stack import wait_for

# What a share does not know, as docs/how-to/rebuild-the-database.md says: order and time of the last change, and whether the
# files were looked at since something was let go; the type's id is new, so its name is compared.
LOST = {"seq", "updated_at", "volume_type_id", "needs_cleanup"}
LOST_OF_BACKUPS = {"content_bytes", "seq", "updated_at", "name", "description", "metadata", "snapshot_id", "held_file"}
LOST_OF_BACKUPS |= {"created_at", "data_timestamp"}  # a manifest says when it was written
CONFIGURATION = """
[DEFAULT]
enabled_backends = local, rawfiles
[volumes]
share_dir = {0}/qcow2
backup_url = file://{0}/backups
[rawfiles]
share_dir = {0}/raw
volume_format = raw
volume_backend_name = rawfiles
"""


class Scenario(Operator):
    """A varied history, and what a reader of each volume and snapshot finds at its beginning."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        super().__init__(lab)
        self.directory = directory
        self.content: dict[str, bytes] = {}

    @property
    def share(self) -> Path:
        return self.directory / "qcow2"

    @property
    def raw_share(self) -> Path:
        return self.directory / "raw"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Returns the answer's document. Asks again while block storage is at work on the volume by itself, as its look around
        is now and then."""
        answers: list[requests.Response] = []

        def answered() -> bool:
            answers.append(self.api.send("volume", method, path, body))
            return answers[-1].status_code != 409 or '"busy"' not in answers[-1].text

        wait_for(answered, f"{method} {path}", 60)
        assert answers[-1].status_code < 400, f"{method} {path}: {answers[-1].status_code} {answers[-1].text}"
        return answers[-1].json() if answers[-1].content else None

    def make(self, **wanted: Any) -> str:
        plain = {"volume_type": "plain", "size": 1}
        made = self.ask("POST", "/volumes", {"volume": {**plain, **wanted}})["volume"]["id"]
        wait_for(lambda: self.api.volume(made)["status"] == "available", "the volume")
        self.settle()
        return str(made)

    def take(self, volume_id: str, **wanted: Any) -> str:
        body = {"snapshot": {"volume_id": volume_id, **wanted}}
        made = self.ask("POST", "/snapshots", body)["snapshot"]["id"]
        wait_for(lambda: self.api.snapshot(made)["status"] == "available", "the snapshot")
        self.settle()
        self.content[made] = self.content[volume_id]
        return str(made)

    def back_up(self, volume_id: str, **wanted: Any) -> str:
        body = {"backup": {"volume_id": volume_id, **wanted}}
        made = self.ask("POST", "/backups", body)["backup"]["id"]
        wait_for(lambda: self.api.ok("volume", "GET", f"/backups/{made}")["backup"]["status"] == "available", "the backup")
        self.settle()
        self.content[made] = self.content[volume_id]
        return str(made)

    def act(self, volume_id: str, **action: Any) -> None:
        name, body = next(iter(action.items()))
        self.ask("POST", f"/volumes/{volume_id}/action", {name.replace("__", "-"): body})
        wait_for(lambda: self.api.volume(volume_id)["status"] == "available", name)
        self.settle()

    def remove(self, kind: str, resource_id: str) -> None:
        self.ask("DELETE", f"/{kind}/{resource_id}")
        wait_for(lambda: self.api.send("volume", "GET", f"/{kind}/{resource_id}").status_code == 404, "the deletion")
        self.settle()

    def row(self, volume_id: str) -> VolumeRow:
        with self.database().read() as connection:
            found = volumes.get(connection, volume_id, None)
        assert found is not None
        return found

    def write(self, volume_id: str, text: bytes) -> None:
        row = self.row(volume_id)
        source = self.directory / "pattern"
        source.write_bytes(text.ljust(512, b"."))
        command = ["qemu-io", "-f", row["format"], "-c", f"write -s {source} 0 512", row["active_file"]]
        subprocess.run(command, cwd=row["share"], check=True, capture_output=True)
        self.content[volume_id] = text

    def read(self, share: Path, name: str, format_: str) -> bytes:
        target = self.directory / "read"
        copies.copy_out(Source(name, format_, 64), share, target, "raw", False)
        with target.open("rb") as handle:
            return handle.read(512).rstrip(b".\0")

    def check_content(self) -> None:
        """Every volume and every snapshot reads as it was written."""
        with self.database().read() as connection:
            rows = volumes.list_all(connection)
            found = {row["id"]: self.read(Path(row["share"]), row["active_file"], row["format"]) for row in rows}
            for row in rows:
                for each in snapshots.of_volume(connection, row["id"]):
                    found[each["id"]] = self.read(Path(row["share"]), each["backing"], each["backing_format"])
        assert found == {key: self.content[key] for key in found}


@pytest.fixture
def scenario(tmp_path: Path) -> Iterator[Scenario]:
    for name in ("qcow2", "raw"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o2770)
    made = open_lab(tmp_path, CONFIGURATION.format(tmp_path))
    found = Scenario(made, tmp_path)
    try:
        yield found
    finally:
        made.clear()
        found.lab.clear()


def history(scenario: Scenario) -> dict[str, str]:
    """Makes volumes and snapshots in every shape; returns their ids by the names used here."""
    admin = scenario.lab.stack.api("stillframe-admin")
    types = {"linked": {"stillframe:linked_clone": "true"}, "raw": {"volume_backend_name": "rawfiles"}}
    types["plain"] = {"volume_backend_name": "local"}
    for name, specs in types.items():
        admin.ok("volume", "POST", "/types", {"volume_type": {"name": name, "extra_specs": specs}})
    ids = {"data": scenario.make(name="data", description="with an é", metadata={"k": "v"})}
    data = ids["data"]
    scenario.write(data, b"one")
    ids["first"] = scenario.take(data, name="first", description="before", metadata={"a": "b"})
    scenario.write(data, b"two")
    ids["second"] = scenario.take(data, name="second")
    scenario.write(data, b"three")
    ids["third"] = scenario.take(data)
    scenario.act(data, os__extend={"new_size": 2})
    scenario.act(data, revert={"snapshot_id": ids["first"], "newer_snapshots": "keep"})
    scenario.content[data] = b"one"
    scenario.write(data, b"another branch")
    ids["fourth"] = scenario.take(data, name="fourth")
    scenario.remove("snapshots", ids["second"])
    ids["clone"] = scenario.make(snapshot_id=ids["first"], volume_type="linked", name="clone", size=3)
    scenario.content[ids["clone"]] = b"one"
    ids["copy"] = scenario.make(snapshot_id=ids["fourth"], size=2)
    scenario.content[ids["copy"]] = b"another branch"
    ids["undoable"] = scenario.make(name="undoable")
    scenario.write(ids["undoable"], b"old")
    ids["back"] = scenario.take(ids["undoable"], name="back")
    scenario.write(ids["undoable"], b"new")
    scenario.act(ids["undoable"], revert={"snapshot_id": ids["back"]})
    scenario.content[ids["undoable"]] = b"old"
    ids["raw"] = scenario.make(volume_type="raw", name="raw")
    scenario.write(ids["raw"], b"QFI\xfb: a raw volume may hold anything")
    ids["raw snapshot"] = scenario.take(ids["raw"], name="of raw")
    scenario.write(ids["copy"], b"backed up")
    ids["full"] = scenario.back_up(ids["copy"], name="full")
    scenario.write(ids["copy"], b"backed up again")
    ids["incremental"] = scenario.back_up(ids["copy"], incremental=True)
    scenario.write(ids["copy"], b"not backed up")
    scenario.act(data, os__set_bootable={"bootable": True})
    admin.ok("volume", "POST", f"/volumes/{data}/action", {"os-set_image_metadata": {"metadata": {"os_type": "linux"}}})
    scenario.settle()
    return ids


def rows(database: Database) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Every volume and snapshot row by id, without what is lost; the type by its name."""
    with database.read() as connection:
        types = {row["id"]: row["name"] for row in volume_types.list_all(connection)}
        found = volumes.list_all(connection)
        taken = [each for row in found for each in snapshots.of_volume(connection, row["id"])]
        volume_rows = {row["id"]: {**_kept(row), "type": types[row["volume_type_id"]]} for row in found}
    return volume_rows, {row["id"]: _kept(row) for row in taken}


def backup_rows(database: Database) -> dict[str, dict[str, Any]]:
    with database.read() as connection:
        found = backups.list_page(connection, None, Page())
    return {row["id"]: {key: value for key, value in row.items() if key not in LOST_OF_BACKUPS} for row in found}


def _kept(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in LOST}


def lose_and_rebuild(scenario: Scenario) -> None:
    """The state directory is gone; another one is made from the shares."""
    configuration = scenario.directory / "stillframe.conf"
    scenario.lab.clear()
    shutil.rmtree(scenario.state)
    state = scenario.directory / "new-state"
    options = ["--config-file", str(configuration), "--state-dir", str(state)]
    planned = stillframe_apart("rebuild", *options, "--share", str(scenario.share), "--dry-run")
    assert planned.code == 0 and "4 would be taken, 0 refused" in planned.out and not state.exists(), planned
    done = stillframe_apart("rebuild", *options, "--share", str(scenario.share), "--backups", "-f", "json")
    answer = json.loads(done.out)
    assert (done.code, answer["refused"], answer["refused_backups"], len(answer["backups"])) == (0, {}, {}, 2), done
    again = stillframe_apart("rebuild", *options, "--share", str(scenario.share))
    assert again.code == 2 and "manage-share" in again.complaint
    added = stillframe_apart("manage-share", *options, "--share", str(scenario.raw_share))
    assert added.code == 0 and "volumes: 1 taken, 0 refused" in added.out, added
    scenario.lab.stack.state_dir = state


def test_the_rebuilt_rows_are_those_that_were_lost(scenario: Scenario) -> None:
    ids = history(scenario)
    scenario.check_content()
    before, kept = rows(scenario.database()), backup_rows(scenario.database())
    assert {row["status"] for kind in before for row in kind.values()} == {"available"}
    assert before[0][ids["undoable"]]["undo_file"] and before[0][ids["clone"]]["linked_to"]
    assert before[0][ids["raw"]]["base_format"] == "raw" and len(before[1]) == 5
    lose_and_rebuild(scenario)
    assert rows(scenario.database()) == before
    assert backup_rows(scenario.database()) == kept and len(kept) == 2
    assert set(next(iter(before[0].values()))) | LOST == set(volumes_table.c.keys()) | {"type"}
    assert set(next(iter(before[1].values()))) | LOST == set(snapshots_table.c.keys()) | LOST
    order = [row["id"] for row in ordered(scenario.database())]
    assert order == sorted(order, key=list(before[0]).index), "volumes come in the order they were made in"


def ordered(database: Database) -> list[VolumeRow]:
    with database.read() as connection:
        return [row for row in volumes.list_all(connection) if row["share"].endswith("qcow2")]


def examined(scenario: Scenario) -> Said:
    """What the doctor says once it has judged every volume: the service tidies up what it took over whenever it likes."""
    said = Said(1, "not judged", "")

    def judged() -> bool:
        nonlocal said
        said = scenario.run(["doctor"], "--config-file", str(scenario.directory / "stillframe.conf"), "--older-than", "0")
        return "not judged" not in said.out

    wait_for(judged, "a doctor who judges every volume")
    return said


def test_everything_works_on_a_rebuilt_database(scenario: Scenario) -> None:
    ids = history(scenario)
    lose_and_rebuild(scenario)
    scenario.lab.stack.start()
    said = examined(scenario)
    assert (said.code, said.out.partition(";")[0]) == (0, "nothing found"), said
    scenario.check_content()
    scenario.act(ids["undoable"], os__undo_revert=None)
    scenario.content[ids["undoable"]] = b"new"
    refusal = scenario.api.send("volume", "DELETE", f"/snapshots/{ids['first']}")
    assert refusal.status_code == 409 and ids["clone"] in refusal.text
    scenario.act(ids["data"], revert={"snapshot_id": ids["third"], "newer_snapshots": "keep"})
    scenario.content[ids["data"]] = b"three"
    scenario.act(ids["data"], os__extend={"new_size": 3})
    scenario.write(ids["data"], b"after the loss")
    ids["fifth"] = scenario.take(ids["data"], name="fifth")
    ids["from fifth"] = scenario.make(snapshot_id=ids["fifth"], size=3)
    scenario.content[ids["from fifth"]] = b"after the loss"
    scenario.act(ids["raw"], revert={"snapshot_id": ids["raw snapshot"]})
    for name in ("incremental", "full"):
        ids[f"from {name}"] = scenario.make(backup_id=ids[name], size=2)
        scenario.content[ids[f"from {name}"]] = scenario.content[ids[name]]
    scenario.check_content()
    ids["next"] = scenario.back_up(ids["copy"])
    for name in ("third", "fifth", "fourth", "raw snapshot", "back"):
        scenario.remove("snapshots", ids[name])
        scenario.check_content()
    scenario.remove("volumes", ids["clone"])
    scenario.remove("snapshots", ids["first"])
    for name in ("data", "copy", "undoable", "raw", "from fifth", "from full", "from incremental"):
        scenario.remove("volumes", ids[name])
    assert files.listing(scenario.share) == [".share-id"] == files.listing(scenario.raw_share)


def test_a_snapshot_newer_than_the_record_comes_back(scenario: Scenario) -> None:
    """The service died between the switch and the writing of the record: the overlay holds what the guest wrote since."""
    types = {"name": "plain", "extra_specs": {"volume_backend_name": "local"}}
    scenario.lab.stack.api("stillframe-admin").ok("volume", "POST", "/types", {"volume_type": types})
    volume_id = scenario.make(name="late")
    scenario.write(volume_id, b"before")
    record, snapshot_id = (scenario.share / f"volume-{volume_id}.record").read_bytes(), str(uuid.uuid4())
    overlay = overlay_name(volume_id, snapshot_id)
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", f"volume-{volume_id}", overlay]
    subprocess.run(command, cwd=scenario.share, check=True)
    with scenario.database().write() as connection:
        volumes.change(connection, volume_id, active_file=overlay)
    scenario.write(volume_id, b"after")
    (scenario.share / f"volume-{volume_id}.record").write_bytes(record)
    scenario.lab.clear()
    done, database = rebuild(scenario.directory, scenario.share, scenario.directory / "again")
    (taken,) = json.loads(done.out)["volumes"]
    assert (taken["active_file"], taken["snapshots"], len(taken["notes"])) == (overlay, [snapshot_id], 1)
    volume_rows, snapshot_rows = rows(database)
    assert scenario.read(scenario.share, volume_rows[volume_id]["active_file"], "qcow2") == b"after"
    assert scenario.read(scenario.share, snapshot_rows[snapshot_id]["backing"], "qcow2") == b"before"


def test_a_record_comes_back_however_long_it_is(scenario: Scenario) -> None:
    """With all that a member may write on them, the record of a volume with eighteen snapshots has more than 1 MiB: only
    so much was read of it, so that no rebuild took the volume."""
    types = {"name": "plain", "extra_specs": {"volume_backend_name": "local"}}
    scenario.lab.stack.api("stillframe-admin").ok("volume", "POST", "/types", {"volume_type": types})
    long = {f"{number:03}".rjust(255, "k"): "y" * 240 for number in range(125)}
    volume_id = scenario.make(name="early")
    scenario.write(volume_id, b"content")
    taken = [scenario.take(volume_id, metadata=long) for _ in range(18)]
    scenario.ask("PUT", f"/volumes/{volume_id}", {"volume": {"name": "late"}})
    scenario.settle()
    assert (scenario.share / f"volume-{volume_id}.record").stat().st_size > 1 << 20
    scenario.lab.clear()
    _done, database = rebuild(scenario.directory, scenario.share, scenario.directory / "again")
    volume_rows, snapshot_rows = rows(database)
    assert volume_rows[volume_id]["name"] == "late"
    assert {row["id"]: row["metadata"] for row in snapshot_rows.values()} == dict.fromkeys(taken, long)
    assert scenario.read(scenario.share, volume_rows[volume_id]["active_file"], "qcow2") == b"content"


def rebuild(directory: Path, share: Path, state: Path, *more: str, code: int = 0) -> tuple[Said, Database]:
    """Rebuilds a share into a state directory of its own, configured for it."""
    configuration = directory / f"{state.name}.conf"
    configuration.write_text(f"[volumes]\nshare_dir = {share}\n")
    options = ["--config-file", str(configuration), "--state-dir", str(state), "--share", str(share), "-f", "json"]
    said = stillframe_apart("rebuild", *options, *more)
    assert said.code == code, said
    return said, Database(f"sqlite:///{state}/stillframe.sqlite")


def qemu_img(share: Path, *arguments: str) -> None:
    subprocess.run(["qemu-img", *arguments], cwd=share, check=True, capture_output=True)


class Cinder:
    """A share as Cinder's NFS driver leaves it: no records, no marker, .info where there are or were snapshots."""

    def __init__(self, share: Path) -> None:
        self.share = share
        share.mkdir()
        share.chmod(0o2770)
        self.ids = {name: str(uuid.uuid4()) for name in ("merged", "a", "b", "alone", "straight", "s1", "s2")}
        base = self.base("merged", "raw", "1G")
        # a and b were taken, then b was deleted: Cinder pulls, and the file named after b carries a.
        top = self.overlay("merged", base, "raw", "b")
        (share / f"{base}.info").write_text(json.dumps({"active": top, self.ids["a"]: top}))
        self.base("alone", "raw", "2G")
        base = self.base("straight", "qcow2", "3G")
        self.overlay("straight", self.overlay("straight", base, "qcow2", "s1"), "qcow2", "s2")

    def base(self, name: str, format_: str, size: str) -> str:
        self.ids.setdefault(name, str(uuid.uuid4()))
        made = f"volume-{self.ids[name]}"
        qemu_img(self.share, "create", "-q", "-f", format_, made, size)
        return made

    def overlay(self, name: str, backing: str, format_: str, snapshot: str) -> str:
        self.ids.setdefault(snapshot, str(uuid.uuid4()))
        made = f"volume-{self.ids[name]}.{self.ids[snapshot]}"
        qemu_img(self.share, "create", "-q", "-u", "-f", "qcow2", "-F", format_, "-b", backing, made, "3G")
        return made


@pytest.fixture
def cinder(tmp_path: Path) -> Cinder:
    return Cinder(tmp_path / "cinder")


def test_a_share_of_cinders_becomes_rows(tmp_path: Path, cinder: Cinder) -> None:
    ids = cinder.ids
    with (cinder.share / f"volume-{ids['alone']}").open("r+b") as disk:
        disk.write(b"QFI\xfb\0\0\0\3")  # a guest's own; it stays raw
    said, database = rebuild(tmp_path, cinder.share, tmp_path / "first", code=1)
    answer = json.loads(said.out)
    assert list(answer["refused"]) == [ids["alone"]] and "--base-format" in answer["refused"][ids["alone"]]
    options = ["--project", "tenant", "--user", "someone", "--base-format", "raw"]
    said, database = rebuild(tmp_path, cinder.share, tmp_path / "second", *options)
    volume_rows, snapshot_rows = rows(database)
    shown = {
        name: tuple(volume_rows[ids[name]][key] for key in ("size", "format", "base_format", "name", "project_id", "user_id"))
        for name in ("merged", "alone", "straight")
    }
    assert shown == {
        "merged": (3, "qcow2", "raw", None, "tenant", "someone"),
        "alone": (2, "raw", "raw", None, "tenant", "someone"),
        "straight": (3, "qcow2", "qcow2", None, "tenant", "someone"),
    }
    base, straight = f"volume-{ids['merged']}", f"volume-{ids['straight']}"
    assert {
        key: (row["overlay"], row["backing"], row["backing_format"], row["size"]) for key, row in snapshot_rows.items()
    } == {
        ids["a"]: (f"{base}.{ids['b']}", base, "raw", 1),
        ids["s1"]: (f"{straight}.{ids['s1']}", straight, "qcow2", 3),
        ids["s2"]: (f"{straight}.{ids['s2']}", f"{straight}.{ids['s1']}", "qcow2", 3),
    }
    assert volume_rows[ids["straight"]]["active_file"] == f"{straight}.{ids['s2']}"


def spoil_absolute(cinder: Cinder) -> None:
    base = cinder.base("bad", "qcow2", "1G")
    cinder.overlay("bad", str(cinder.share / base), "qcow2", "x")


def spoil_foreign(cinder: Cinder) -> None:
    base = cinder.base("bad", "qcow2", "1G")
    top = cinder.overlay("bad", f"volume-{cinder.ids['straight']}", "qcow2", "x")
    (cinder.share / f"{base}.info").write_text(json.dumps({"active": top}))


def spoil_gone(cinder: Cinder) -> None:
    base = cinder.base("bad", "qcow2", "1G")
    (cinder.share / f"{base}.info").write_text(json.dumps({"active": f"{base}.{uuid.uuid4()}"}))


def spoil_branches(cinder: Cinder) -> None:
    base = cinder.base("bad", "qcow2", "1G")
    cinder.overlay("bad", base, "qcow2", "x")
    cinder.overlay("bad", base, "qcow2", "y")


def spoil_info(cinder: Cinder) -> None:
    (cinder.share / f"{cinder.base('bad', 'qcow2', '1G')}.info").write_text('{"active": "../../etc/passwd"}')


def spoil_half_info(cinder: Cinder) -> None:
    (cinder.share / f"{cinder.base('bad', 'qcow2', '1G')}.info").write_text('{"active": "vol')


def spoil_link(cinder: Cinder) -> None:
    base = cinder.base("bad", "qcow2", "1G")
    (cinder.share / base).rename(cinder.share / "elsewhere")
    (cinder.share / base).symlink_to("elsewhere")


def spoil_record(cinder: Cinder) -> None:
    (cinder.share / f"{cinder.base('bad', 'qcow2', '1G')}.record").write_text('{"version": 1, "volume": {}, "snapshots": []}')


def spoiled_with(text: str) -> Any:
    def spoil(cinder: Cinder) -> None:
        (cinder.share / f"{cinder.base('bad', 'qcow2', '1G')}.record").write_bytes(text.encode(errors="surrogatepass"))

    return spoil


def spoil_shrunk(cinder: Cinder) -> None:
    base = cinder.base("bad", "qcow2", "8G")
    cinder.overlay("bad", base, "qcow2", "x")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (spoil_absolute, "not a plain file name"),
        (spoil_foreign, "no file of its volume"),
        (spoil_gone, "is missing"),
        (spoil_branches, "which is active nobody knows"),
        (spoil_info, "is not a file of volume"),
        (spoil_half_info, "no JSON document"),
        (spoil_link, "symbolic link"),
        (spoil_record, "is damaged"),
        (spoil_shrunk, "the disk would shrink"),
        (spoiled_with("[" * 200_000), "nested too deeply"),
        (spoiled_with('{"version": true, "volume": {}, "snapshots": []}'), "no record of version 1"),
        (spoiled_with('{"version": 1, "volume": {"name": "\ud800"}, "snapshots": []}'), "cannot be stored"),
        (spoiled_with('{"version": 1, "volume": {"name": "\\ud800"}, "snapshots": []}'), "cannot be stored"),
        (spoiled_with('{"version": 1, "volume": {"name": "\\u0000"}, "snapshots": []}'), "cannot be stored"),
        (spoiled_with('{"version": 1, "volume": 1e999, "snapshots": []}'), "is damaged"),
        (spoiled_with("\0" * 5000), "no JSON document"),
        (spoiled_with('{"version": ' + "9" * 5000 + "}"), "no JSON document"),
    ],
    ids=lambda given: given.__name__ if callable(given) else "",
)
def test_a_volume_that_is_not_sound_is_refused_and_the_others_are_taken(
    tmp_path: Path, cinder: Cinder, spoil: Any, told: str
) -> None:
    spoil(cinder)
    options = ("--base-format", "qcow2")
    dry, _ = rebuild(tmp_path, cinder.share, tmp_path / "dry", *options, "--dry-run", code=1)
    said, database = rebuild(tmp_path, cinder.share, tmp_path / "state", *options, code=1)
    assert json.loads(dry.out)["refused"] == json.loads(said.out)["refused"]
    refused = json.loads(said.out)["refused"]
    assert told in refused[cinder.ids["bad"]]
    assert set(rows(database)[0]) == {cinder.ids[name] for name in ("merged", "straight")}


def test_a_snapshot_that_two_volumes_claim_is_given_to_neither(tmp_path: Path, cinder: Cinder) -> None:
    """Somebody copied a volume's files under another name: the id of its snapshot came along."""
    cinder.overlay("copy", cinder.base("copy", "qcow2", "3G"), "qcow2", "s1")
    dry, _ = rebuild(tmp_path, cinder.share, tmp_path / "dry", "--base-format", "qcow2", "--dry-run", code=1)
    said, database = rebuild(tmp_path, cinder.share, tmp_path / "state", "--base-format", "qcow2", code=1)
    assert json.loads(dry.out)["refused"] == json.loads(said.out)["refused"]
    for name in ("copy", "straight"):
        assert "is also a snapshot of another volume" in json.loads(said.out)["refused"][cinder.ids[name]]
    assert set(rows(database)[0]) == {cinder.ids["merged"]}


def test_a_share_of_cinders_is_managed_while_the_services_run(tmp_path: Path, cinder: Cinder) -> None:
    for path in cinder.share.iterdir():
        if path.is_file():
            path.chmod(0o644)
    configuration = f"[DEFAULT]\nenabled_backends = local, theirs\n[theirs]\nshare_dir = {cinder.share}\n"
    lab = open_lab(tmp_path, configuration)
    try:
        operator = Operator(lab)
        own = operator.volume("own")  # on whichever of the two had a little more room
        here = {own} if (cinder.share / f"volume-{own}").exists() else set()
        config = ("--config-file", str(tmp_path / "stillframe.conf"))
        told = operator.document(*config, "--older-than", "0")["findings"]
        assert sorted(each["kind"] for each in told) == ["unknown_volume"] * 3
        options = (*config, "--share", str(cinder.share), "--base-format", "raw", "--project", "demo", "-f", "json")
        assert len(json.loads(operator.run(["manage-share"], *options, "--dry-run").out)["volumes"]) == 3
        assert [volume["id"] for volume in operator.api.ok("volume", "GET", "/volumes")["volumes"]] == [own]
        said = operator.run(["manage-share"], *options)
        assert said.code == 0 and len(json.loads(said.out)["volumes"]) == 3, said
        again = json.loads(operator.run(["manage-share"], *options).out)
        assert (again["volumes"], sorted(again["known"])) == (
            [],
            sorted({*(cinder.ids[n] for n in ("merged", "alone", "straight")), *here}),
        )
        operator.settle()
        assert {each["kind"] for each in operator.document(*config)["findings"]} == {"wrong_mode"}
        _use(operator, cinder, config)
    finally:
        lab.clear()


def _use(operator: Operator, cinder: Cinder, config: tuple[str, ...]) -> None:
    """What was managed is used: snapshots of it are taken and deleted in any order, and it goes at last."""
    api, ids = operator.api, cinder.ids
    assert json.loads(operator.run(["doctor"], *config, "--fix", "--yes", "-f", "json").out)["left"] == []
    for name in ("alone", "straight", "merged"):
        operator.snapshot(ids[name], f"ours of {name}")
    found = api.ok("volume", "GET", "/snapshots/detail")["snapshots"]
    assert len(found) == 6
    for each in found:
        api.ok("volume", "DELETE", f"/snapshots/{each['id']}")
        wait_for(lambda key=each["id"]: api.send("volume", "GET", f"/snapshots/{key}").status_code == 404, "the deletion")  # type: ignore[misc]
        operator.settle()
    for name in ("alone", "straight", "merged"):
        api.ok("volume", "DELETE", f"/volumes/{ids[name]}")
    wait_for(lambda: len(api.ok("volume", "GET", "/volumes")["volumes"]) == 1, "the deletions")
    operator.settle()
    assert files.listing(cinder.share) == [".share-id"]

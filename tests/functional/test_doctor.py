"""The doctor on a real share, database and libvirt: each kind of finding is made, told, and where it is safe mended and
put back."""

import fcntl
import hashlib
import json
import os
import shlex
import signal
import struct
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from stillframe.compute.quiesce import record as freeze_record
from stillframe.compute.quiesce.record import FreezeRecord
from stillframe.db import assisted_snapshots, attachments, finished, operations, snapshots, volumes
from stillframe.db.tables import operations as operations_table
from stillframe.db.values import NewAttachment
from stillframe.host import files, hypervisor, soundness
from stillframe.journal import record
from stillframe.journal.failpoints import VARIABLE
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.recovery.doctor import holding
from stillframe.volumes.recovery.doctor.findings import KINDS
from tests.support import qemu_io
from tests.support.content import digest
from tests.support.lab import open_lab
from tests.support.operator import Operator
from tests.support.service import PROGRAM
from tests.support.stack import wait_for

NOW = ("--older-than", "0")
FIX = ("--fix", "--yes", *NOW)


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    made = open_lab(tmp_path_factory.mktemp("doctor"))
    try:
        yield Operator(made)
    finally:
        made.clear()


@pytest.fixture(autouse=True)
def clean(operator: Operator) -> Iterator[None]:
    """Every test begins and ends with nothing to find."""
    yield
    if not operator.lab.stack.running:
        operator.lab.stack.start()
    for volume in operator.api.ok("volume", "GET", "/volumes/detail")["volumes"]:
        with operator.database().write() as connection:
            volumes.delete(connection, volume["id"])
    for name in files.listing(operator.share):
        if name != ".share-id":
            (operator.share / name).unlink()
    assert operator.document(*NOW)["findings"] == []


def found(operator: Operator, *arguments: str) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = operator.document(*NOW, *arguments)["findings"]
    return told


def one(operator: Operator, kind: str) -> dict[str, Any]:
    """The only finding there is."""
    told = found(operator)
    assert [each["kind"] for each in told] == [kind], told
    assert told[0]["means"] == KINDS[kind].means
    return told[0]


def fixed(operator: Operator) -> dict[str, Any]:
    """Repairs all there is; returns the answer of a command that found nothing afterwards."""
    said = operator.run(["doctor"], *FIX, "-f", "json")
    answer: dict[str, Any] = json.loads(said.out)
    assert (said.code, answer["left"], answer["not_repaired"]) == (0, [], []), answer
    assert all(each["trouble"] is None for each in answer["repaired"])
    return answer


def undone(operator: Operator, log: str) -> list[Any]:
    said = operator.run(["doctor"], "--undo", log, "--yes", "-f", "json")
    assert said.code == 0, said
    outcomes: list[Any] = json.loads(said.out)
    return outcomes


def refused(operator: Operator) -> str:
    """Asks for repairs and sees that nothing was changed; returns the only reason given."""
    before = state_of(operator)
    answer = operator.document(*FIX)
    assert answer["plan"] == [] and state_of(operator) == before
    (told,) = answer["not_repaired"]
    return str(told["why"])


def state_of(operator: Operator) -> dict[str, tuple[str, int]]:
    """Names, content and modes of everything on the share."""
    return {
        name: (hashlib.sha256((operator.share / name).read_bytes()).hexdigest(), (operator.share / name).stat().st_mode)
        for name in files.listing(operator.share)
    }


def qemu_img(operator: Operator, *arguments: str) -> None:
    subprocess.run(["qemu-img", *arguments], cwd=operator.share, check=True, capture_output=True)


def overlay_on(operator: Operator, backing: str, name: str) -> Path:
    qemu_img(operator, "create", "-q", "-f", "qcow2", "-b", backing, "-F", "qcow2", name)
    (operator.share / name).chmod(0o660)
    return operator.share / name


def change_row(operator: Operator, volume_id: str, **values: Any) -> None:
    with operator.database().write() as connection:
        volumes.change(connection, volume_id, **values)


@contextmanager
def opened(path: Path) -> Iterator[None]:
    """Holds the lock QEMU holds on a file it has open."""
    handle = os.open(path, os.O_RDWR)
    try:
        lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 100, 1, 0)
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, lock)
        yield
    finally:
        os.close(handle)


def domain(operator: Operator, disks: dict[str, tuple[str, str]], server_id: str | None = None) -> str:
    """Defines a domain without an operating system; ``disks`` maps targets to (volume id, file). Returns its id."""
    described = "".join(
        f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{operator.share}/{name}'/>"
        f"<target dev='{target}' bus='virtio'/><serial>{volume_id}</serial></disk>"
        for target, (volume_id, name) in disks.items()
    )
    return hypervisor.define(
        operator.lab.stack.hypervisor,
        f"<domain type='qemu'><name>doctor</name><uuid>{server_id or uuid.uuid4()}</uuid><memory unit='MiB'>32</memory>"
        "<os><type arch='x86_64' machine='pc'>hvm</type></os><devices>"
        f"<emulator>/usr/bin/qemu-system-x86_64</emulator>{described}</devices></domain>",
    )


@pytest.fixture
def undefine(operator: Operator) -> Iterator[None]:
    """Takes every domain away after a test."""
    yield
    for each in operator.lab.stack.hypervisor.connection().listAllDomains():
        if each.isActive():
            each.destroy()
        each.undefine()


def test_a_sound_share_has_no_findings(operator: Operator) -> None:
    volume_id = operator.volume()
    for name in ("one", "two"):
        operator.snapshot(volume_id, name)
    clone = operator.api.ok("volume", "POST", "/volumes", {"volume": {"source_volid": volume_id, "name": "copy"}})["volume"]
    wait_for(lambda: operator.api.volume(clone["id"])["status"] == "available", "the clone")
    operator.settle()
    said = operator.run(["doctor"], *NOW)
    assert (said.code, said.out) == (0, "nothing found; looked at 2 volumes, 1 share, 0 servers\n")


def test_an_orphan_is_renamed_and_renamed_back(operator: Operator) -> None:
    volume_id = operator.volume()
    orphan = overlay_on(operator, f"volume-{volume_id}", f"volume-{volume_id}.{uuid.uuid4()}")
    qemu_io.write(operator.share, orphan.name, b"something")
    before = state_of(operator)
    assert one(operator, "orphan_file")["file"] == orphan.name
    answer = fixed(operator)
    assert not orphan.exists() and (operator.share / f".orphan.{orphan.name}").exists()
    assert [each["file"] for each in operator.document()["put_aside"]] == [f".orphan.{orphan.name}"]
    undone(operator, answer["undo_log"])
    assert state_of(operator) == before
    assert undone(operator, answer["undo_log"]) == []
    (command,) = [
        line["command"] for line in map(json.loads, Path(answer["undo_log"]).read_text().splitlines()) if "did" in line
    ]
    fixed(operator)
    subprocess.run(["bash", "-c", command], check=True)  # what the log says to type does the same
    assert state_of(operator) == before


def test_orphans_on_orphans_go_from_the_top(operator: Operator) -> None:
    volume_id = operator.volume()
    lower = overlay_on(operator, f"volume-{volume_id}", f"volume-{volume_id}.{uuid.uuid4()}")
    upper = overlay_on(operator, lower.name, f"volume-{volume_id}.{uuid.uuid4()}")
    answer = fixed(operator)
    assert [each["file"] for each in answer["repaired"]] == [upper.name, lower.name]


def test_an_orphan_that_is_open_stays(operator: Operator) -> None:
    volume_id = operator.volume()
    orphan = overlay_on(operator, f"volume-{volume_id}", f"volume-{volume_id}.{uuid.uuid4()}")
    with opened(orphan):
        assert refused(operator) == "a program has it open"


def test_an_orphan_that_another_file_names_stays(operator: Operator) -> None:
    volume_id, stranger = operator.volume(), str(uuid.uuid4())
    orphan = overlay_on(operator, f"volume-{volume_id}", f"volume-{volume_id}.{uuid.uuid4()}")
    overlay_on(operator, orphan.name, f"volume-{stranger}.{uuid.uuid4()}")
    assert {each["kind"] for each in found(operator)} == {"orphan_file", "unknown_volume"}
    assert "names it" in refused(operator)


@pytest.mark.usefixtures("undefine")
@pytest.mark.parametrize("services", ["running", "stopped"])
def test_an_orphan_that_a_server_names_stays(operator: Operator, services: str) -> None:
    volume_id, other = operator.volume(), str(uuid.uuid4())
    orphan = overlay_on(operator, f"volume-{volume_id}", f"volume-{volume_id}.{uuid.uuid4()}")
    domain(operator, {"vda": (other, orphan.name)})
    if services == "stopped":
        operator.lab.stack.stop()
    answer = operator.document(*FIX)
    assert [each["why"] for each in answer["not_repaired"]] == ["a server's description names it"]
    assert orphan.exists()
    if services == "stopped":
        operator.lab.stack.start()


def test_it_works_while_the_services_do_not_run(operator: Operator) -> None:
    volume_id = operator.volume()
    orphan = overlay_on(operator, f"volume-{volume_id}", f"volume-{volume_id}.{uuid.uuid4()}")
    operator.lab.stack.stop()
    before = state_of(operator)
    answer = fixed(operator)
    assert "its files" in answer["servers"]["note"] and not orphan.exists()
    undone(operator, answer["undo_log"])
    assert state_of(operator) == before


def test_leftovers_of_a_deleted_volume_are_renamed(operator: Operator) -> None:
    volume_id = operator.volume()
    kept = {name: (operator.share / name).read_bytes() for name in files.listing(operator.share) if volume_id in name}
    operator.api.ok("volume", "DELETE", f"/volumes/{volume_id}")
    wait_for(lambda: operator.api.send("volume", "GET", f"/volumes/{volume_id}").status_code == 404, "the deletion")
    for name, content in kept.items():
        (operator.share / name).write_bytes(content)
    assert sorted((each["kind"], each["file"]) for each in found(operator)) == [("orphan_file", name) for name in sorted(kept)]
    fixed(operator)
    assert {name for name in files.listing(operator.share) if volume_id in name} == {f".orphan.{name}" for name in kept}


def test_volumes_that_this_database_never_had_are_left_alone(operator: Operator) -> None:
    stranger = f"volume-{uuid.uuid4()}"
    qemu_img(operator, "create", "-q", "-f", "qcow2", stranger, "1G")
    overlay_on(operator, stranger, f"{stranger}.{uuid.uuid4()}")
    assert "2 files" in one(operator, "unknown_volume")["what"]
    before = state_of(operator)
    assert operator.document(*FIX)["plan"] == [] and state_of(operator) == before


def test_a_file_of_somebody_else_that_is_based_on_a_volume(operator: Operator) -> None:
    """Whatever it is called, wherever it lies and however its header names the volume's file."""
    volume_id = operator.volume()
    base = f"volume-{volume_id}"
    operator.snapshot(volume_id)
    qemu_io.write(operator.share, base, b"of the volume")
    (operator.share / "below").mkdir()
    made = {
        "golden.qcow2": ("qcow2", base),
        ".hidden": ("qcow2", f"{operator.share}/{base}"),
        "below/clone": ("qcow2", f"../{base}"),
        "by-options": ("qcow2", f'json:{{"driver":"qcow2","file":{{"driver":"file","filename":"{base}"}}}}'),
        "old.qed": ("qed", base),
        f"volume-{uuid.uuid4()}": ("qcow2", base),
    }
    for name, (format_, backing) in made.items():
        qemu_img(operator, "create", "-q", "-u", "-f", format_, "-b", backing, "-F", "qcow2", name, "1G")
        (told,) = [each for each in found(operator) if each["kind"] != "unknown_volume"]
        assert (told["kind"], told["file"], told["volume_id"]) == ("foreign_reader", name, volume_id), told
        assert operator.document(*FIX)["plan"] == []
        answer = operator.api.send("volume", "DELETE", f"/volumes/{volume_id}?cascade=true")
        assert answer.status_code == 409 and name in answer.text, answer.text
        copy = operator.state / "copy"
        qemu_img(operator, "convert", "-f", format_, "-O", "qcow2", name, str(copy))  # what the advice says
        assert digest(operator.state, "copy") == digest(operator.share, base)
        (operator.share / name).rename(operator.state / "moved")
        assert found(operator) == []
    (operator.share / "below").rmdir()


def test_a_file_that_a_foreign_file_is_based_on_is_not_renamed(operator: Operator) -> None:
    volume_id = operator.volume()
    orphan = overlay_on(operator, f"volume-{volume_id}", f"volume-{volume_id}.{uuid.uuid4()}")
    overlay_on(operator, orphan.name, "golden.qcow2")
    assert refused(operator) == "the header of golden.qcow2 names it"
    (operator.share / "golden.qcow2").unlink()
    with subprocess.Popen(["tail", "-f", orphan], stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reader.stdout.read(1)
        try:
            assert refused(operator) == "a program has it open"
        finally:
            reader.terminate()
    fixed(operator)


def test_a_missing_file(operator: Operator) -> None:
    volume_id = operator.volume()
    overlay = operator.overlay(volume_id, operator.snapshot(volume_id))
    overlay.unlink()
    assert one(operator, "missing_file")["file"] == overlay.name
    assert operator.document(*FIX)["plan"] == []


def test_a_row_without_any_file(operator: Operator) -> None:
    volume_id = operator.volume()
    (operator.share / f"volume-{volume_id}").unlink()
    assert one(operator, "row_without_file")["volume_id"] == volume_id


def test_a_file_that_must_not_be_opened(operator: Operator) -> None:
    volume_id = operator.volume()
    path = operator.share / f"volume-{volume_id}"
    os.link(path, operator.share / "second-name")
    assert "one name" in one(operator, "unsafe_file")["what"]
    (operator.share / "second-name").unlink()
    path.write_bytes(b"no header" * 1000)
    assert "not a qcow2 file" in one(operator, "unsafe_file")["what"]


def test_a_wrong_backing_file(operator: Operator) -> None:
    volume_id, other = operator.volume(), operator.volume("other")
    overlay = operator.overlay(volume_id, operator.snapshot(volume_id))
    qemu_img(operator, "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", f"volume-{other}", overlay.name)
    assert other in one(operator, "wrong_backing")["what"]
    qemu_img(operator, "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", f"volume-{volume_id}.{uuid.uuid4()}", overlay.name)
    told = found(operator)
    assert {each["kind"] for each in told} == {"wrong_backing", "snapshot_not_behind"}


def test_a_wrong_backing_format(operator: Operator) -> None:
    volume_id = operator.volume()
    overlay = operator.overlay(volume_id, operator.snapshot(volume_id))
    qemu_img(operator, "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", f"volume-{volume_id}", overlay.name)
    assert "'raw'" in one(operator, "wrong_backing_format")["what"]


def test_a_snapshot_whose_data_is_elsewhere(operator: Operator) -> None:
    volume_id = operator.volume()
    operator.snapshot(volume_id)
    second = operator.snapshot(volume_id)
    overlay = operator.overlay(volume_id, second)
    qemu_img(operator, "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", f"volume-{volume_id}", overlay.name)
    assert one(operator, "snapshot_not_behind")["snapshot_id"] == second


def test_a_wrong_virtual_size(operator: Operator) -> None:
    volume_id = operator.volume()
    qemu_img(operator, "resize", "-q", "-f", "qcow2", f"volume-{volume_id}", "2G")
    assert str(2 << 30) in one(operator, "wrong_size")["what"]


def second_level(path: Path) -> tuple[int, int]:
    """Offsets of the first second-level table and of the first refcount block."""
    start = path.read_bytes()[: 1 << 20]
    (l1_at,), (ref_at,) = struct.unpack_from(">Q", start, 40), struct.unpack_from(">Q", start, 48)
    (l2,), (block,) = struct.unpack_from(">Q", start, l1_at), struct.unpack_from(">Q", start, ref_at)
    return l2 & ~(1 << 63), block


def put(path: Path, at: int, value: bytes) -> None:
    with path.open("r+b") as handle:
        handle.seek(at)
        handle.write(value)


def leak(operator: Operator, volume_id: str) -> Path:
    """Writes to the volume and forgets what was written: its cluster is counted, and nothing names it."""
    path = operator.share / f"volume-{volume_id}"
    qemu_io.write(operator.share, path.name, b"forgotten")
    put(path, second_level(path)[0], bytes(8))
    return path


def test_leaked_clusters_are_freed(operator: Operator) -> None:
    volume_id = operator.volume()
    path = leak(operator, volume_id)
    assert "1 clusters" in one(operator, "leaked_clusters")["what"]
    with opened(path):
        assert refused(operator) == "a program has it open"
    change_row(operator, volume_id, status="in-use")
    assert "'in-use'" in refused(operator)
    change_row(operator, volume_id, status="available")
    assert operator.document(*NOW, "--quick")["findings"] == []
    answer = fixed(operator)
    qemu_img(operator, "check", "-q", "-f", "qcow2", path.name)
    (outcome,) = undone(operator, answer["undo_log"])
    assert "nothing to put back" in outcome["trouble"]


def dirty(operator: Operator, volume_id: str) -> Path:
    """The volume's only file holds 17 at 2 MiB and 18 at 6 MiB, and its writer died with lazy counts."""
    path = operator.share / f"volume-{volume_id}"
    qemu_io.mark(path, compatible=1)
    qemu_io.dead_writer(operator.share, path.name, "write -P 17 2M 64k", "write -P 18 6M 64k", "flush")
    return path


def test_a_file_whose_writer_died_is_repaired(operator: Operator) -> None:
    volume_id = operator.volume()
    path = dirty(operator, volume_id)
    content = digest(operator.share, path.name)
    for options in ((), ("--quick",)):
        assert [each["kind"] for each in found(operator, *options)] == ["unsound_file"]
    told = one(operator, "unsound_file")
    assert told["file"] == path.name and "dirty bit" in told["what"]
    with opened(path):
        assert refused(operator) == "a program has it open"
    change_row(operator, volume_id, status="in-use")
    assert "'in-use'" in refused(operator)
    change_row(operator, volume_id, status="available")
    answer = fixed(operator)
    assert "check -r all" in answer["repaired"][0]["does"]
    qemu_img(operator, "check", "-q", "-f", "qcow2", path.name)
    assert soundness.look(operator.share, path.name, "qcow2") == soundness.Soundness()
    assert digest(operator.share, path.name) == content
    (outcome,) = undone(operator, answer["undo_log"])
    assert "nothing to put back" in outcome["trouble"]


def test_a_dirty_base_and_a_dirty_orphan_are_found_too(operator: Operator) -> None:
    volume_id = operator.volume()
    base = dirty(operator, volume_id)
    overlay = operator.share / f"volume-{volume_id}.{uuid.uuid4()}"
    operator.snapshot(volume_id)  # repairs the base
    assert found(operator) == []
    overlay_on(operator, base.name, overlay.name)
    for path in (base, overlay):
        qemu_io.mark(path, incompatible=1)
    told = found(operator)
    assert {(each["kind"], each["file"]) for each in told} == {
        ("orphan_file", overlay.name),
        ("unsound_file", overlay.name),
        ("unsound_file", base.name),
    }
    answer = fixed(operator)
    assert [each["does"].split()[0] for each in answer["repaired"]] == ["repair", "repair", "rename"]


def test_a_dirty_file_with_other_damage_is_left_alone(operator: Operator) -> None:
    path = dirty(operator, operator.volume())
    qemu_io.cross(path, 32, 96)
    assert sorted(each["kind"] for each in found(operator)) == ["corruption", "unsound_file"]
    assert "damaged beyond its reference counts" in refused(operator)
    before = state_of(operator)
    answer = operator.document(*FIX, "--quick")  # it did not look into the file before: the repair does
    assert "where something else is too" in answer["repaired"][0]["trouble"] and state_of(operator) == before


def test_the_corrupt_bit_is_reported_and_left_alone(operator: Operator) -> None:
    path = dirty(operator, operator.volume())
    qemu_io.mark(path, incompatible=2)
    assert "corrupt bit" in one(operator, "unsound_file")["what"]
    assert "guessed" in refused(operator)


def test_a_bitmap_that_was_in_use_is_reported_and_not_removed(operator: Operator) -> None:
    path = operator.share / f"volume-{operator.volume()}"
    qemu_img(operator, "bitmap", "--add", path.name, "monday")
    assert found(operator) == []
    qemu_io.dead_writer(operator.share, path.name, "write -P 5 0 64k", "flush")
    told = one(operator, "inconsistent_bitmap")
    assert "monday" in told["what"] and "bitmap --remove" in told["advice"]
    assert operator.document(*FIX)["plan"] == []
    content = digest(operator.share, path.name)
    qemu_img(operator, "bitmap", "--remove", path.name, "monday")
    assert found(operator) == [] and digest(operator.share, path.name) == content


def test_a_file_that_a_program_writes_to_is_not_repaired(operator: Operator) -> None:
    path = operator.share / f"volume-{operator.volume()}"
    qemu_io.mark(path, compatible=1)
    qemu_img(operator, "bitmap", "--add", path.name, "monday")
    with qemu_io.writer(operator.share, path.name, "write -P 5 0 64k", "flush"):
        assert path.read_bytes()[79] & 1
        assert found(operator) == []


def test_corruption_is_reported_and_left_alone(operator: Operator) -> None:
    volume_id = operator.volume()
    path = operator.share / f"volume-{volume_id}"
    qemu_io.write(operator.share, path.name, b"counted")
    table, block = second_level(path)
    (entry,) = struct.unpack(">Q", path.read_bytes()[table : table + 8])
    put(path, block + (entry & 0x00FFFFFFFFFFFE00) // 65536 * 2, bytes(2))
    assert "corruptions" in one(operator, "corruption")["what"]
    before = state_of(operator)
    assert operator.document(*FIX)["plan"] == [] and state_of(operator) == before


def test_a_wrong_mode_is_corrected_and_reversed(operator: Operator) -> None:
    volume_id = operator.volume()
    path = operator.share / f"volume-{volume_id}"
    path.chmod(0o644)
    assert "0644" in one(operator, "wrong_mode")["what"]
    answer = fixed(operator)
    assert path.stat().st_mode & 0o7777 == 0o660
    undone(operator, answer["undo_log"])
    assert path.stat().st_mode & 0o7777 == 0o644


def test_the_command_that_puts_a_mode_back_follows_no_link(operator: Operator, tmp_path: Path) -> None:
    """Whoever may write to the share may put a link to any file of root's there before it is typed."""
    first, second = operator.share / f"volume-{operator.volume()}", operator.share / f"volume-{operator.volume()}"
    for path in (first, second):
        path.chmod(0o644)
    log = Path(fixed(operator)["undo_log"])
    commands = {
        line["file"]: shlex.split(line["command"]) for line in map(json.loads, log.read_text().splitlines()) if "did" in line
    }
    victim = tmp_path / "victim"
    victim.write_text("of root")
    victim.chmod(0o600)
    kept = first.rename(first.with_name(".kept"))
    first.symlink_to(victim)
    for path in (first, second):
        assert commands[path.name][:2] == ["stillframe", "doctor"]
        operator.run(["doctor"], *commands[path.name][2:], "--yes")
    assert victim.stat().st_mode & 0o7777 == 0o600
    assert (kept.stat().st_mode & 0o7777, second.stat().st_mode & 0o7777) == (0o660, 0o644), "one line each"
    first.unlink()
    kept.rename(first)
    second.chmod(0o660)


@pytest.mark.parametrize("content", [None, b"{", b'{"active": "volume-x"}', b"\xff\xfe"])
@pytest.mark.parametrize("kind", ["info_differs", "record_differs"])
def test_documents_are_written_from_the_rows_and_reversed(operator: Operator, kind: str, content: bytes | None) -> None:
    volume_id = operator.volume()
    operator.snapshot(volume_id)
    path = operator.share / f"volume-{volume_id}.{kind.partition('_')[0]}"
    right = path.read_bytes()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert one(operator, kind)["file"] == path.name
    answer = fixed(operator)
    assert path.read_bytes() == right
    undone(operator, answer["undo_log"])
    assert (path.read_bytes() if path.exists() else None) == content


def test_documents_are_not_written_while_the_files_do_not_fit(operator: Operator) -> None:
    volume_id = operator.volume()
    overlay = operator.overlay(volume_id, operator.snapshot(volume_id))
    overlay.unlink()
    (operator.share / f"volume-{volume_id}.info").unlink()
    assert {each["kind"] for each in found(operator)} == {"missing_file", "info_differs"}
    assert refused(operator) == "the files do not agree with the rows"


def test_an_undo_refuses_what_was_changed_since(operator: Operator) -> None:
    volume_id = operator.volume()
    orphan = overlay_on(operator, f"volume-{volume_id}", f"volume-{volume_id}.{uuid.uuid4()}")
    (operator.share / f"volume-{volume_id}.record").write_text("{")
    answer = fixed(operator)
    (operator.share / f".orphan.{orphan.name}").unlink()
    (operator.share / f"volume-{volume_id}.record").write_text('{"newer": 1}')
    said = operator.run(["doctor"], "--undo", answer["undo_log"], "--yes", "-f", "json")
    told = {each["did"].partition(" ")[0]: each["trouble"] for each in json.loads(said.out)}
    assert said.code == 1 and "not there any more" in told["rename"] and "written anew" in told["write"]


@pytest.mark.parametrize("kind", ["marker_missing", "marker_foreign"])
def test_a_share_with_another_marker_is_not_judged(operator: Operator, kind: str) -> None:
    volume_id = operator.volume()
    marker, hidden = operator.share / ".share-id", operator.share / f"volume-{volume_id}"
    content, data = marker.read_bytes(), hidden.read_bytes()
    hidden.unlink()
    if kind == "marker_missing":
        marker.unlink()
    else:
        marker.write_text(json.dumps({"share_id": str(uuid.uuid4())}))
        marker.chmod(0o660)
    one(operator, kind)
    marker.write_bytes(content)
    marker.chmod(0o660)
    hidden.write_bytes(data)


def test_left_overs_are_removed_when_they_are_old(operator: Operator) -> None:
    volume_id = operator.volume()
    overlay = operator.overlay(volume_id, operator.snapshot(volume_id))
    operator.lab.stack.stop()  # it removes trash itself
    for name in (f".tmp.{volume_id}.{uuid.uuid4()}", f".trash.volume-{volume_id}.{uuid.uuid4()}", ".tmp.volume-x"):
        (operator.share / name).write_text("left over")
    assert operator.document()["findings"] == []
    assert [each["kind"] for each in found(operator)] == ["old_temporary"] * 3
    answer = fixed(operator)
    assert not [name for name in files.listing(operator.share) if name.startswith((".tmp", ".trash"))]
    assert all("cannot be put back" in each["trouble"] for each in undone(operator, answer["undo_log"]))
    overlay.rename(operator.share / f".trash.{overlay.name}")
    assert {each["kind"] for each in found(operator)} == {"missing_file", "old_temporary"}
    assert "is missing and asked for" in refused(operator)


def test_a_directory_open_to_everybody(operator: Operator) -> None:
    operator.share.chmod(0o2777)
    assert "2777" in one(operator, "share_open")["what"]
    operator.share.chmod(0o2770)


def test_a_share_that_is_not_enabled(operator: Operator) -> None:
    volume_id = operator.volume()
    change_row(operator, volume_id, share="/srv/elsewhere")
    kinds = {each["kind"] for each in found(operator)}
    assert kinds == {"share_not_enabled", "orphan_file"}
    change_row(operator, volume_id, share=str(operator.share))


def test_statuses_that_nothing_will_end(operator: Operator) -> None:
    volume_id = operator.volume()
    snapshot_id = operator.snapshot(volume_id)
    change_row(operator, volume_id, status="extending")
    assert one(operator, "transitional_status")["volume_id"] == volume_id
    change_row(operator, volume_id, status="available")
    with operator.database().write() as connection:
        snapshots.change(connection, snapshot_id, status="deleting")
    assert one(operator, "transitional_status")["snapshot_id"] == snapshot_id
    with operator.database().write() as connection:
        snapshots.change(connection, snapshot_id, status="available")


def operation(operator: Operator, volume_id: str, **changes: Any) -> str:
    """Inserts an unfinished operation on a volume."""
    row: Any = {**holding._row(str(uuid.uuid4()), "elsewhere:1:1", {"volume_id": volume_id}, 0.0), **changes}
    with operator.database().write() as connection:
        operations.insert(connection, row, [f"volume:{volume_id}"])
    return str(row["id"])


def forget(operator: Operator, operation_id: str) -> None:
    with operator.database().write() as connection:
        row = operations.get(connection, operation_id)
        assert row is not None
        operations.change(connection, operation_id, str(row["owner"]), row["epoch"], state="done")
        finished.ended(connection, operation_id)


def test_a_parked_operation_and_nothing_of_its_volume_is_touched(operator: Operator) -> None:
    volume_id = operator.volume()
    fault = {"code": "parked", "message": "neither before nor after", "details": {}}
    parked = operation(operator, volume_id, service="volumes", kind="extend_volume", state="parked", fault=fault)
    assert "neither before nor after" in one(operator, "parked_operation")["what"]
    (operator.share / f"volume-{volume_id}").chmod(0o644)
    assert {each["kind"] for each in found(operator)} == {"parked_operation", "wrong_mode"}
    assert refused(operator) == "an operation on the volume has not ended"
    forget(operator, parked)
    fixed(operator)


def test_a_parked_operation_is_retried_by_its_id_while_the_services_run(operator: Operator) -> None:
    volume_id = operator.volume()
    operator.settle()
    with operator.database().write() as connection:
        parked = record.submit(connection, chain_metadata.request(volume_id, "r"))
        connection.execute(update(operations_table).where(operations_table.c.id == parked).values(state="parked"))

    def state() -> str:
        with operator.database().read() as connection:
            row = operations.get(connection, parked)
        assert row is not None
        return str(row["state"])

    assert one(operator, "parked_operation")["volume_id"] == volume_id
    assert operator.run(["operation", "retry"], str(uuid.uuid4())).code != 0
    assert state() == "parked"
    assert operator.run(["operation", "retry"], parked).code == 0
    wait_for(lambda: state() == "done", "the operation")
    assert operator.run(["operation", "retry"], parked).code != 0, "it is not parked any more"


def test_a_set_in_error_with_good_snapshots_is_found_and_repaired(operator: Operator) -> None:
    volume_id, set_id = operator.volume(), str(uuid.uuid4())
    snapshot_id = operator.api.ok("volume", "POST", "/snapshots", {"snapshot": {"volume_id": volume_id}})["snapshot"]["id"]
    operator.settle()
    entry = {"volume_id": volume_id, "snapshot_id": snapshot_id, "method": "assisted", "status": "error", "error": "a clone"}
    with operator.database().write() as connection:
        row: Any = {"id": set_id, "project_id": "demo", "user_id": "member", "server_id": str(uuid.uuid4())}
        row |= {"name": None, "description": None, "metadata": {}, "progress": 100, "quiesce": "preferred"}
        row |= {"status": "error", "fault": "not all were deleted", "volumes": [entry], "excluded_disks": []}
        assisted_snapshots.insert(connection, row)
    assert set_id in one(operator, "set_is_good")["what"]
    fixed(operator)
    with operator.database().read() as connection:
        found_row = assisted_snapshots.get(connection, set_id, None)
    assert found_row is not None
    assert found_row["status"] == "available"


def test_a_volume_with_an_operation_is_not_judged(operator: Operator) -> None:
    volume_id = operator.volume()
    (operator.share / f"volume-{volume_id}").chmod(0o644)
    under_way = operation(operator, volume_id, service="compute", kind="assisted_snapshot", lease_until=9e9)
    answer = operator.document(*FIX)
    assert (answer["findings"], answer["not_judged"], answer["plan"]) == ([], [volume_id], [])
    forget(operator, under_way)


def test_a_doctor_that_died_leaves_its_lock(operator: Operator) -> None:
    volume_id = operator.volume()
    owner = f"{os.uname().nodename}:4194304:1"
    operation(operator, volume_id, owner=owner)
    refusal = operator.api.send("volume", "POST", f"/volumes/{volume_id}/action", {"os-extend": {"new_size": 2}})
    assert refusal.status_code == 409 and "repair" in refusal.text
    one(operator, "abandoned_repair")
    fixed(operator)
    operator.api.ok("volume", "POST", f"/volumes/{volume_id}/action", {"os-extend": {"new_size": 2}})
    wait_for(lambda: operator.api.volume(volume_id)["size"] == 2, "the extension")
    operator.settle()


@pytest.mark.parametrize("place", ["before", "effect"])
@pytest.mark.parametrize("verb", ["set_mode", "write_document", "repair_counts", "free_leaks", "quarantine", "remove"])
def test_a_doctor_killed_in_a_repair_leaves_nothing_half_done(operator: Operator, verb: str, place: str) -> None:
    volume_id = operator.volume()
    leak(operator, volume_id)
    orphan = overlay_on(operator, f"volume-{volume_id}", f"volume-{volume_id}.{uuid.uuid4()}")
    qemu_io.mark(orphan, incompatible=1)
    (operator.share / f"volume-{volume_id}").chmod(0o644)
    (operator.share / f"volume-{volume_id}.record").write_text("{")
    (operator.share / f".tmp.{volume_id}.left").write_text("left over")
    before, logs = state_of(operator), set(operator.state.glob("*.undo.jsonl"))
    command = [*PROGRAM, "doctor", "--state-dir", str(operator.state), *FIX]
    killed = subprocess.run(command, env={**os.environ, VARIABLE: f"doctor/{verb}/{place}"}, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    (first,) = set(operator.state.glob("*.undo.jsonl")) - logs
    second = fixed(operator)["undo_log"]
    for log in (second, str(first)):  # the last run is reversed first
        if log is not None:
            operator.run(["doctor"], "--undo", log, "--yes")
    after = state_of(operator)
    # Removed for good; leaks given back; counts repaired.
    gone = {f".tmp.{volume_id}.left", f"volume-{volume_id}", orphan.name}
    assert {name: found for name, found in after.items() if name not in gone} == {
        name: found for name, found in before.items() if name not in gone
    }
    assert after[f"volume-{volume_id}"][1] == before[f"volume-{volume_id}"][1]


def test_a_repair_holds_its_volume(operator: Operator) -> None:
    volume_id = operator.volume()
    with holding.held(operator.database(), "here", [volume_id], {"says": "a test"}):
        refusal = operator.api.send("volume", "POST", "/snapshots", {"snapshot": {"volume_id": volume_id}})
        assert refusal.status_code == 409 and "busy with operation" in refusal.text
        with pytest.raises(Exception, match="repair"), holding.held(operator.database(), "here", [volume_id], {}):
            pass
    operator.snapshot(volume_id)


def attach_row(operator: Operator, volume_id: str, server_id: str) -> None:
    """The rows say that the server has the volume."""
    row: NewAttachment = {
        "id": str(uuid.uuid4()),
        "project_id": "demo",
        "volume_id": volume_id,
        "instance_id": server_id,
        "status": "attached",
        "mode": "rw",
    }
    with operator.database().write() as connection:
        attachments.insert(connection, row)
        volumes.change(connection, volume_id, status="in-use")


@pytest.mark.usefixtures("undefine")
def test_servers_against_rows(operator: Operator) -> None:
    volume_id, server_id = operator.volume(), str(uuid.uuid4())
    base = f"volume-{volume_id}"
    domain(operator, {"vda": (volume_id, base)}, server_id)
    assert one(operator, "disk_without_attachment")["server_id"] == server_id
    attach_row(operator, volume_id, server_id)
    assert found(operator) == []
    domain(operator, {"vda": (volume_id, f"{base}.{uuid.uuid4()}")}, server_id)
    assert one(operator, "wrong_active_file")["server_id"] == server_id
    domain(operator, {}, server_id)
    assert one(operator, "attached_without_disk")["volume_id"] == volume_id
    # What it advises, done.
    operator.lab.api.ok("compute", "DELETE", f"/servers/{server_id}/os-volume_attachments/{volume_id}")
    wait_for(lambda: operator.lab.api.volume(volume_id)["status"] == "available", "the detachment")
    assert found(operator) == []


@pytest.mark.usefixtures("undefine")
def test_a_server_that_would_open_another_file_after_a_restart(operator: Operator) -> None:
    volume_id, server_id = operator.volume(), str(uuid.uuid4())
    base = f"volume-{volume_id}"
    snapshot_id = operator.snapshot(volume_id)
    domain(operator, {"vda": (volume_id, f"{base}.{snapshot_id}")}, server_id)
    attach_row(operator, volume_id, server_id)
    operator.lab.stack.hypervisor.domain(server_id).createWithFlags(1)  # VIR_DOMAIN_START_PAUSED
    assert found(operator) == []
    domain(operator, {"vda": (volume_id, base)}, server_id)
    assert one(operator, "descriptions_differ")["server_id"] == server_id


def test_a_guest_that_nobody_confirmed_as_thawed(operator: Operator) -> None:
    operator.lab.stack.stop()
    record = FreezeRecord(str(uuid.uuid4()), str(uuid.uuid4()), freeze_record.boot_seconds() - 1, 1)
    freeze_record.write(operator.state / "freeze", record)
    assert one(operator, "maybe_frozen")["server_id"] == record.domain
    freeze_record.clear(operator.state / "freeze", record)


def test_a_guest_frozen_by_somebody_else(tmp_path: Path) -> None:
    lab = open_lab(tmp_path)
    try:
        operator, guest = Operator(lab), lab.add_guest(1)
        lab.api.take(guest.id, quiesce="required")
        operator.settle()
        assert found(operator) == []
        assert guest.agent("guest-fsfreeze-freeze") > 0
        assert one(operator, "guest_frozen")["server_id"] == guest.id
        guest.agent("guest-fsfreeze-thaw")
        assert found(operator) == []
    finally:
        lab.clear()


def test_a_check_that_is_not_possible_exits_with_2(operator: Operator, tmp_path: Path) -> None:
    volume_id = operator.volume()
    aside = operator.share.with_name("elsewhere")
    operator.share.rename(aside)
    said = operator.run(["doctor"], *NOW, "-f", "json")
    answer = json.loads(said.out)
    assert (said.code, answer["findings"]) == (2, [])
    assert "does not exist" in answer["not_looked_at"][0]
    aside.rename(operator.share)
    assert (operator.share / f"volume-{volume_id}").exists()
    none = subprocess.run([*PROGRAM, "doctor", "--state-dir", str(tmp_path)], capture_output=True, text=True, check=False)
    assert none.returncode == 2 and "there is no database" in none.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_done_without_a_yes(operator: Operator) -> None:
    volume_id = operator.volume()
    (operator.share / f"volume-{volume_id}").chmod(0o640)
    before = state_of(operator)
    command = [*PROGRAM, "doctor", "--state-dir", str(operator.state), "--fix"]
    said = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert said.returncode == 1 and "chmod 0660" in said.stdout and "repeat with --yes" in said.stderr
    assert state_of(operator) == before
    answered = _on_a_terminal(command, b"n\n")
    assert "Do this? [y/N]" in answered and state_of(operator) == before
    answered = _on_a_terminal(command, b"y\n")
    assert "done: chmod" in answered and "0 findings are left" in answered


def _on_a_terminal(command: list[str], answer: bytes) -> str:
    ours, theirs = os.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    os.close(theirs)
    os.write(ours, answer)
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    return out.decode()


def test_a_busy_service_has_no_findings(operator: Operator) -> None:
    ids, stop = [operator.volume(f"busy-{number}") for number in range(2)], threading.Event()

    def work(volume_id: str) -> None:
        api = operator.lab.stack.api()
        while not stop.is_set():
            made = api.send("volume", "POST", "/snapshots", {"snapshot": {"volume_id": volume_id}})
            if made.status_code == 202:
                path = f"/snapshots/{made.json()['snapshot']['id']}"
                while api.send("volume", "DELETE", path).status_code not in (202, 404):
                    pass

    workers = [threading.Thread(target=work, args=(volume_id,)) for volume_id in ids]
    for worker in workers:
        worker.start()
    try:
        told = [operator.document("--fix", "--yes", *NOW) for _ in range(12)]
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert [answer["findings"] for answer in told] == [[]] * 12
    assert any(answer["not_judged"] for answer in told)
    operator.settle()


def test_no_kind_of_finding_is_without_a_test() -> None:
    beside = (
        "test_saved_servers.py",
        "test_vanished_server.py",
        "test_late_unplug.py",
        "test_stuck_operations.py",
        "test_iscsi_volumes.py",
        "test_raw_volumes.py",
        "test_golden_parents.py",
        "../crash/test_native_deaths.py",
    )
    text = "".join((Path(__file__).parent / name).read_text() for name in (Path(__file__).name, *beside))
    assert [kind for kind in KINDS if f'"{kind}"' not in text] == []

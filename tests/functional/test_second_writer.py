"""A user without rights in the share's group puts links, pipes, directories and other files in our way, while we work.

What he does is a loop, what we do is done a fixed number of times; whether he met the moment he waited for is luck, but
nothing of the host may ever be read, written or shortened, and nothing may hang.
"""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from stillframe.chain.image import Image, Parent
from stillframe.chain.names import base_name, info_name, overlay_name, record_name, temporary_name, trash_name
from stillframe.compute.quiesce import record as freeze_record
from stillframe.compute.quiesce.record import FreezeRecord
from stillframe.errors import BadConfiguration, BadImage, ChainConflict, StillframeError
from stillframe.host import ancestry, copies, entries, files, parents, publish, qcow2, qemu_img, run, staging, trash
from stillframe.host.copies import Source
from stillframe.volumes.backups import keys
from stillframe.volumes.backups.directory import DirectoryRepository
from stillframe.volumes.storage.drivers import markers
from stillframe.volumes.storage.drivers.directory import DirectoryShare
from tests.support.lab import open_lab
from tests.support.second_writer import GROUP, SECRET, Site, forged, site
from tests.support.service import Command
from tests.support.site import journal_is_empty
from tests.support.slow_clients import crowd
from tests.support.stack import wait_for
from tests.unit.builders import OTHER_SNAPSHOT, OTHER_VOLUME, SNAPSHOT, VOLUME, new_id

BASE, COPY, OVERLAY = base_name(VOLUME), base_name(OTHER_VOLUME), overlay_name(VOLUME, SNAPSHOT)
MIB = 1 << 20
ROUNDS = 25
SECONDS = 60


@pytest.fixture
def place() -> Iterator[Site]:
    with site() as made:
        yield made


def tried(call: Callable[[], object]) -> None:
    """Refusals are right: somebody else is at work there."""
    with suppress(StillframeError, OSError):
        call()


def ended(call: Callable[[], object]) -> bool:
    """Tells whether the call ended, in whatever way."""
    thread = threading.Thread(target=tried, args=(call,), daemon=True)
    thread.start()
    thread.join(SECONDS)
    return not thread.is_alive()


def make(at: Path, name: str, value: int = 17) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", name, "1M"], cwd=at, check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write -P {value} 0 64k", name], cwd=at, check=True, capture_output=True)
    os.chown(at / name, 0, GROUP)
    (at / name).chmod(0o660)


def secret_is_out(place: Site) -> bool:
    return any(SECRET[:512] in content for content in place.may_read())


def test_a_link_in_place_of_a_temporary_file_overwrites_no_file_of_the_host(place: Site) -> None:
    temporary = temporary_name(VOLUME, "token")
    swap = (f"if os.path.exists({temporary!r}): os.unlink({temporary!r})", f"os.symlink(target, {temporary!r})")
    with place.attacked(*swap):
        for _ in range(ROUNDS):
            tried(lambda: publish.publish_base(place.share, Image(BASE, "qcow2", MIB), "token", VOLUME))
            assert place.untouched()
            files.remove(place.share, BASE)
    publish.publish_base(place.share, Image(BASE, "qcow2", MIB), "token", VOLUME)
    assert qcow2.read(place.share, BASE).size == MIB


def test_a_source_swapped_during_a_copy_discloses_nothing(place: Site) -> None:
    """The copy is taken by a hard link as soon as it is there; the source becomes a link to the host's file a moment later."""
    (place.share / BASE).write_bytes(b"\x11" * len(SECRET))
    os.chown(place.share / BASE, 0, GROUP)
    (place.share / BASE).chmod(0o660)
    temporary = temporary_name(OTHER_VOLUME, "token")
    lines = (
        f"with suppress(OSError): os.link({temporary!r}, 'taken')",
        f"os.rename({BASE!r}, 'kept'); os.symlink(target, {BASE!r})",
        "time.sleep(0.02)",
        f"os.rename('kept', {BASE!r})",
        "time.sleep(0.02)",
    )
    with place.attacked(*lines):
        for _ in range(4 * ROUNDS):
            source, image = Source(BASE, "raw", 1), Image(COPY, "raw", len(SECRET))
            tried(lambda source=source, image=image: copies.publish_copy(place.share, source, image, "token", OTHER_VOLUME))  # type: ignore[misc]
            assert not secret_is_out(place)
            with suppress(FileNotFoundError):
                os.unlink(place.share / COPY)


def test_a_source_swapped_right_before_a_copy_is_not_read(place: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, with the moment hit: the name leads to the host's file for as long as qemu-img runs."""
    (place.share / BASE).write_bytes(b"\x11" * len(SECRET))
    real, out = run.run, []

    def swapped(words: list[str], **more: Any) -> str:
        (place.share / BASE).rename(place.share / "kept")
        (place.share / BASE).symlink_to(place.host)
        try:
            said = real(words, **more)
            out.append(secret_is_out(place))
        finally:
            (place.share / "kept").rename(place.share / BASE)
        return said

    monkeypatch.setattr(copies, "run", swapped)
    image = Image(COPY, "raw", len(SECRET))
    tried(lambda: copies.publish_copy(place.share, Source(BASE, "raw", 1), image, "token", OTHER_VOLUME))
    assert out == [False]
    assert (place.share / COPY).read_bytes() == b"\x11" * len(SECRET)


def test_a_backing_file_swapped_during_a_read_discloses_nothing(place: Site) -> None:
    (place.share / BASE).write_bytes(b"\x11" * len(SECRET))
    words = ["create", "-q", "-f", "qcow2", "-b", BASE, "-F", "raw", OVERLAY]
    subprocess.run(["qemu-img", *words], cwd=place.share, check=True)
    lines = (f"os.rename({BASE!r}, 'kept'); os.symlink(target, {BASE!r})", "time.sleep(0.01)", f"os.rename('kept', {BASE!r})")
    with place.attacked(*lines, "time.sleep(0.01)"):
        for _ in range(2 * ROUNDS):
            tried(lambda: qemu_img.pull(place.share, OVERLAY, None, None, 2))
            assert not secret_is_out(place)
            subprocess.run(["qemu-img", *words[:3], "qcow2", "-u", *words[4:], str(len(SECRET))], cwd=place.share, check=True)


def test_a_file_that_is_written_while_it_is_copied_is_not_published(place: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may write to a volume's file may write its header too, and put it back: what was read is then not kept."""
    make(place.share, BASE)
    real = copies._copy

    def rewritten(*arguments: object, **more: object) -> None:
        with (place.share / BASE).open("r+b") as file:
            start = file.read(4096)
            file.seek(0)
            file.write(start)
        real(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(copies, "_copy", rewritten)
    with pytest.raises(StillframeError, match="was written while it was read"):
        copies.publish_copy(place.share, Source(BASE, "qcow2", 1), Image(COPY, "qcow2", MIB), "token", OTHER_VOLUME)
    assert files.listing(place.share) == [BASE]


VERBS: dict[str, Callable[[Path], object]] = {
    "commit": lambda share: qemu_img.commit(share, OVERLAY, BASE, 2),
    "pull": lambda share: qemu_img.pull(share, OVERLAY, None, None, 2),
    "grow": lambda share: qemu_img.grow(share, BASE, "qcow2", 2 * MIB),
    "repair": lambda share: qemu_img.repair_all(share, BASE, "qcow2"),
    "copy": lambda share: copies.publish_copy(
        share, Source(OVERLAY, "qcow2", 2), Image(COPY, "qcow2", MIB), "token", OTHER_VOLUME
    ),
}


@pytest.mark.parametrize("forged_one", [BASE, OVERLAY])
@pytest.mark.parametrize("verb", VERBS)
def test_a_header_rewritten_while_it_is_read_leads_to_no_file_of_the_host(
    place: Site, monkeypatch: pytest.MonkeyPatch, verb: str, forged_one: str
) -> None:
    """It may name any file as the one that holds its data: root read that one for who wrote the header, and wrote into it."""
    make(place.share, BASE)
    words = ["create", "-q", "-f", "qcow2", "-b", BASE, "-F", "qcow2", OVERLAY]
    subprocess.run(["qemu-img", *words], cwd=place.share, check=True)
    writes = ["-c", "write -P 34 0 64k", "-c", "write -P 35 128k 64k"]
    subprocess.run(["qemu-io", "-f", "qcow2", *writes, OVERLAY], cwd=place.share, check=True, capture_output=True)
    real, met = run.attempt, []

    def at_that_moment(command: list[str], **more: Any) -> run.Outcome:
        with forged(place.share / forged_one, place.host):
            met.append(command[1])
            return real(command, **more)

    monkeypatch.setattr(run, "attempt", at_that_moment)
    monkeypatch.setattr(qemu_img, "attempt", at_that_moment)
    tried(lambda: VERBS[verb](place.share))
    monkeypatch.undo()
    assert met
    assert place.untouched()
    assert not secret_is_out(place)


def test_a_link_in_place_of_a_trashed_file_shortens_no_file_of_the_host(place: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trash, "SECONDS", 0.1)
    monkeypatch.setattr(trash, "AT_ONCE", 0)
    monkeypatch.setattr(trash, "PIECE", 1 << 12)
    monkeypatch.setattr(trash, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(files, "free_bytes", files.total_bytes)
    trashed = trash_name(BASE)
    half_way = f"if 4096 < os.lstat({trashed!r}).st_size < {1 << 18}: os.unlink({trashed!r}); os.symlink(target, {trashed!r})"
    with place.attacked(half_way):
        for _ in range(4):
            (place.share / BASE).write_bytes(bytes(1 << 18))
            trash.put(place.share, BASE, trashed)
            for thread in [each for each in threading.enumerate() if each.name == "trash"]:
                thread.join()
            assert place.untouched()


def test_a_file_put_in_place_of_a_document_that_is_removed_is_kept(place: Site) -> None:
    """What is unlinked is the document that was looked at, whatever has its name by then."""
    name, size = info_name(VOLUME), len(b"precious")
    (place.share / BASE).write_bytes(b"precious")
    lines = (
        f"if os.lstat({name!r}).st_size != {size}: os.rename({name!r}, 'kept')",
        f"if os.path.exists({BASE!r}): os.rename({BASE!r}, {name!r})",
        "time.sleep(0.0002)",
        f"if os.lstat({name!r}).st_size == {size}: os.rename({name!r}, {BASE!r})",
        "time.sleep(0.005)",
    )
    removed = 0
    with place.attacked(*lines):
        for _ in range(20 * ROUNDS):
            with suppress(FileExistsError):
                files.create_empty(place.share, name)
            with files.seen(place.share, name) as handle:
                if handle is None or os.fstat(handle).st_size == size:
                    continue
                time.sleep(0.001)  # a look at who has it open, and at its headers, takes longer
                tried(lambda handle=handle: files.remove(place.share, name, handle))  # type: ignore[misc]
                removed += os.fstat(handle).st_nlink == 0
    assert removed
    assert b"precious" in [(place.share / each).read_bytes() for each in files.listing(place.share)]


@pytest.mark.parametrize("name", [f".tmp.{info_name(VOLUME)}", info_name(VOLUME), markers.MARKER, BASE])
def test_a_pipe_in_place_of_a_file_blocks_nobody(place: Site, name: str) -> None:
    make(place.share, "volume")
    with place.attacked(f"os.mkfifo({name!r})"):
        while not os.path.lexists(place.share / name):
            time.sleep(0.01)
        for call in (
            lambda: files.write_json(place.share, info_name(VOLUME), {"active": BASE}),
            lambda: files.read_json(place.share, name),
            lambda: files.sync_file(place.share, name),
            lambda: entries.set_mode(place.share, name, 0o660),
            lambda: files.rename_new(place.share, name, COPY),
            lambda: markers.prepare(place.share),
            lambda: publish.publish_base(place.share, Image(BASE, "qcow2", MIB), "token", VOLUME),
        ):
            assert ended(call)


def test_only_a_regular_file_gets_the_name_of_a_file(place: Site) -> None:
    """The name leads to what was looked at, or to nothing."""
    lines = ("os.rename('foreign', 'kept'); os.symlink(target, 'foreign')", "os.rename('kept', 'foreign')")
    make(place.share, "foreign")
    with place.attacked(*lines):
        for _ in range(20 * ROUNDS):
            tried(lambda: files.rename_new(place.share, "foreign", COPY))
            if os.path.lexists(place.share / COPY):
                assert (place.share / COPY).lstat().st_mode & 0o170000 == 0o100000
                os.rename(place.share / COPY, place.share / "foreign")


@pytest.mark.parametrize("name", [info_name(VOLUME), BASE])
def test_a_directory_in_place_of_a_file_is_refused_with_a_message(place: Site, name: str) -> None:
    share = DirectoryShare(place.share, markers.prepare(place.share), 0)
    with place.attacked(f"os.mkdir({name!r})"):
        while not (place.share / name).is_dir():
            time.sleep(0.01)
    for call in (
        lambda: share.write_document(name, {"active": BASE}),
        lambda: share.read_document(name),
        lambda: share.write_document(name, {}),
    ):
        with pytest.raises(StillframeError, match=name):
            call()
    if name == BASE:
        with pytest.raises(StillframeError, match=name):
            share.remove(VOLUME, name)
    assert (place.share / name).is_dir()


def test_a_device_in_place_of_a_file_is_not_opened(place: Site) -> None:
    os.mknod(place.share / BASE, 0o020666, os.makedev(10, 200))  # opening it would make a network device
    for call in (lambda: qcow2.read(place.share, BASE), lambda: trash.put(place.share, BASE, trash_name(BASE))):
        with pytest.raises(StillframeError, match="special file"):
            call()
    assert os.path.lexists(place.share / BASE)


@pytest.mark.parametrize(
    "lines", [("os.mkdir('.stillframe')", "os.chmod('.stillframe', 0o777)"), ("os.symlink('/tmp', '.stillframe')",)]
)
def test_a_working_directory_of_somebody_else_is_refused(place: Site, lines: tuple[str, ...]) -> None:
    with place.attacked(*lines):
        while not os.path.lexists(place.share / ".stillframe"):
            time.sleep(0.01)
        with pytest.raises(StillframeError, match="move it away"):
            publish.publish_base(place.share, Image(BASE, "qcow2", MIB), "token", VOLUME)
    assert files.listing(place.share) == []


@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_the_group_of_an_adopted_disks_directory_reads_no_more_than_before(place: Site, tmp_path: Path, mode: int) -> None:
    """The directory gives its group to all that is made there. The disk that was there before is not that group's."""
    os.chown(tmp_path, 0, GROUP)
    tmp_path.chmod(0o2755)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "web-1.qcow2", "1M"], cwd=tmp_path, check=True)
    os.chown(tmp_path / "web-1.qcow2", 0, 0)
    (tmp_path / "web-1.qcow2").chmod(mode)
    share_id = markers.claim(tmp_path, new_id(), mode=0o600)
    share = DirectoryShare(tmp_path, share_id, 0, adopted=lambda: {"web-1.qcow2": VOLUME})
    second = overlay_name(VOLUME, OTHER_SNAPSHOT)
    share.create_overlay(VOLUME, Image(OVERLAY, "qcow2", MIB, "web-1.qcow2", "qcow2"), "token")
    share.create_overlay(VOLUME, Image(second, "qcow2", MIB, OVERLAY, "qcow2"), "token")
    share.write_document(record_name(VOLUME), {"volume": {"name": "payroll"}})
    restored = overlay_name(VOLUME, new_id())
    share.copy(VOLUME, Source(second, "qcow2", 3), Image(restored, "qcow2", MIB), "token")
    made = {OVERLAY, second, restored, record_name(VOLUME), markers.MARKER}
    assert made <= set(os.listdir(tmp_path))
    assert {name: (tmp_path / name).stat().st_mode & 0o077 for name in made} == dict.fromkeys(made, 0)


def over(share: Path, backing: str) -> None:
    """Makes a disk as plain QEMU has it, whose header names a parent image."""
    words = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", "raw", "web-1.qcow2", "1M"]
    subprocess.run(words, cwd=share, check=True)


def test_the_header_of_a_disk_leads_to_no_file_that_its_writers_may_not_read(place: Site) -> None:
    """Root would read it for the project of the disk. Whoever may write to the directory may have written the header."""
    over(place.share, str(place.host))
    with pytest.raises(BadImage, match=f"group {GROUP} may not read but may have chosen"):
        ancestry.look(place.share, "web-1.qcow2", "qcow2")
    golden = place.share / "golden.img"
    golden.symlink_to(place.host)
    over(place.share, golden.name)
    with pytest.raises(BadImage, match=f"group {GROUP} may not read but may have chosen"):
        ancestry.look(place.share, "web-1.qcow2", "qcow2")
    golden.unlink()
    golden.write_bytes(bytes(MIB))
    os.chown(golden, 0, GROUP)
    golden.chmod(0o640)
    assert [each.path for each in ancestry.look(place.share, "web-1.qcow2", "qcow2")] == [str(golden)]
    os.chown(place.share / "web-1.qcow2", 65534, GROUP)
    with pytest.raises(BadImage, match="user 65534 may not read"):
        ancestry.look(place.share, "web-1.qcow2", "qcow2")
    golden.chmod(0o644)
    place.share.chmod(0o2775)
    assert len(ancestry.look(place.share, "web-1.qcow2", "qcow2")) == 1


def test_a_link_in_place_of_the_directory_of_a_golden_image_is_not_followed(place: Site) -> None:
    """The link leads to a file of the same name, length and time."""
    inner, secret = place.share / "golden", place.host.stat()
    inner.mkdir()
    (inner / place.host.name).write_bytes(bytes(secret.st_size))
    os.utime(inner / place.host.name, ns=(secret.st_mtime_ns, secret.st_mtime_ns))
    path = str(inner / place.host.name)
    recorded = Parent(path, path, "raw", secret.st_size, secret.st_mtime_ns)
    os.close(parents.open_parent(recorded, "web-1.qcow2"))
    inner.rename(place.share / "aside")
    inner.symlink_to(place.host.parent)
    with pytest.raises(ChainConflict, match="not what it was when the disk was adopted"):
        parents.open_parent(recorded, "web-1.qcow2")


def test_a_working_directory_that_is_moved_away_meanwhile_shows_nothing(place: Site) -> None:
    """Whoever may write to the share may rename a directory there, but not enter it: what we do goes on in it."""
    make(place.share, BASE)
    lines = (
        "os.rename('.stillframe', 'moved'); os.mkdir('.stillframe'); os.chmod('.stillframe', 0o777)",
        f"os.symlink(target, '.stillframe/{temporary_name(OTHER_VOLUME, 'token')}')",
        f"os.symlink(target, '.stillframe/{trash_name(COPY)}')",
        "time.sleep(0.01)",
        "os.rename('.stillframe', f'used{time.monotonic_ns()}'); os.rename('moved', '.stillframe')",
        "time.sleep(0.01)",
    )
    with place.attacked(*lines):
        for _ in range(ROUNDS):
            source, image = Source(BASE, "qcow2", 1), Image(COPY, "qcow2", MIB)
            tried(lambda source=source, image=image: copies.publish_copy(place.share, source, image, "token", OTHER_VOLUME))  # type: ignore[misc]
            tried(lambda: trash.put(place.share, COPY, trash_name(COPY)))
            assert place.untouched()
            assert not secret_is_out(place)


def test_a_link_in_place_of_a_folder_of_the_backup_store_is_not_followed(place: Site) -> None:
    """Neither is a backup written through it, nor does the directory it leads to get another mode."""
    store = DirectoryRepository(place.share, "backups", None)
    store.prepare()
    outside = place.host.parent / "outside"
    outside.mkdir(mode=0o700)
    key = keys.object_key(VOLUME, keys.top_name(SNAPSHOT))
    folder = f"backups/volume-{VOLUME}"
    lines = (
        f"os.rename({folder!r}, 'kept'); os.symlink(os.path.dirname(target) + '/outside', {folder!r})",
        "time.sleep(0.001)",
    )
    back = (f"os.unlink({folder!r}); os.rename('kept', {folder!r})", "time.sleep(0.001)")
    with place.attacked(*lines, *back):
        for _ in range(8 * ROUNDS):
            tried(lambda: store.put_bytes(key, b"backup" * 1000))
            tried(lambda: store.delete(key))
            assert os.listdir(outside) == []
            assert outside.stat().st_mode & 0o7777 == 0o700


def test_no_directory_put_in_place_of_a_new_folder_of_the_store_gets_its_mode(
    place: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's own directory takes the new folder's place once that is there, by a rename that anybody in the group may
    do: with the folder's mode it would be open to the group."""
    store = DirectoryRepository(place.share, "backups", None)
    store.prepare()
    swap = "import os; os.rmdir('backups'); os.rename('.stillframe', 'backups')"
    met: list[str] = []
    rights = ["setpriv", "--reuid=65534", f"--regid={GROUP}", "--clear-groups", "--", sys.executable, "-I", "-c", swap]

    def swapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            found = real(*arguments, **more)
            if not met and (place.share / "backups").is_dir():
                subprocess.run(rights, cwd=place.share, check=True)
                met.append(real.__name__)
            return found

        return call

    own = os.open(place.share / ".stillframe", os.O_RDONLY)
    try:
        with monkeypatch.context() as patched:
            for owner, name in ((Path, "mkdir"), (Path, "chmod"), (os, "rename")):
                patched.setattr(owner, name, swapped(getattr(owner, name)))
            tried(lambda: store.put_bytes(keys.object_key(VOLUME, keys.top_name(SNAPSHOT)), b"backup"))
        assert met
        assert stat.S_IMODE(os.fstat(own).st_mode) & 0o077 == 0
    finally:
        os.close(own)


def test_a_directory_of_the_services_own_files_that_others_may_change_is_refused(place: Site) -> None:
    """Between two calls somebody could put a link to a directory of the host in place of what is made there."""
    record = FreezeRecord(VOLUME, "operation", 1.0, os.getpid())
    calls: tuple[Callable[[], object], ...] = (
        lambda: staging.make(place.share, "operation"),
        lambda: freeze_record.write(place.share, record),
    )
    for call in calls:
        with pytest.raises(BadConfiguration, match=str(place.share)):
            call()
    assert os.listdir(place.share) == []


def test_pipes_in_place_of_documents_hang_no_service_and_it_stops_under_load(tmp_path: Path) -> None:
    """A worker hung in the first of them for ever, and SIGTERM did nothing."""
    lab = open_lab(tmp_path, begin=Command)
    try:
        api, share = lab.api, lab.stack.share
        spoiled, other = api.create_volume("spoiled"), api.create_volume("other")

        def taken(volume_id: str) -> str:
            body = {"snapshot": {"volume_id": volume_id, "name": "s"}}
            return str(api.ok("volume", "POST", "/snapshots", body)["snapshot"]["id"])

        def settled(snapshot_id: str) -> bool:
            answer = api.send("volume", "GET", f"/snapshots/{snapshot_id}")
            return answer.status_code == 404 or answer.json()["snapshot"]["status"] in ("available", "error", "error_deleting")

        first = taken(spoiled)
        wait_for(lambda: settled(first) and journal_is_empty(lab.stack), "the first snapshot")
        for name in (info_name(spoiled), record_name(spoiled)):
            (share / name).unlink()
            os.mkfifo(share / name, 0o660)
        second, beside = taken(spoiled), taken(other)
        wait_for(lambda: settled(second) and settled(beside), "both snapshots")
        assert api.snapshot(beside)["status"] == "available"
        api.send("volume", "DELETE", f"/snapshots/{first}")
        wait_for(lambda: settled(first), "the deletion")
        with crowd(api.port("volume"), idle=100, dripping=20, slow=20):
            os.kill(lab.stack.pid, signal.SIGTERM)
            wait_for(lambda: not lab.stack.running, "the end of the service")
    finally:
        lab.clear()

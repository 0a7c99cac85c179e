"""Every hostile file through every function of the host room that reads or opens an image.

Once with starting programs forbidden: what is to be refused is refused before any program runs. Once for real, with a
canary beside the share whose content must appear nowhere and a port nobody may knock on.
"""

import os
import select
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stillframe.chain.image import Image
from stillframe.chain.names import base_name, overlay_name
from stillframe.errors import BadImage, StillframeError
from stillframe.host import copies, extents, imports, inspection, publish, qcow2, qemu_img, workdir
from stillframe.host.copies import Source
from tests.support.hostile import CANARY, Fate, Hostile, Place, battery
from tests.support.hostile_foreign import LENGTH
from tests.support.hostile_headers import SIZE, file_of, small
from tests.support.leaks import leaked_clusters
from tests.unit.builders import OTHER_VOLUME, SNAPSHOT, VOLUME
from tests.unit.host.headers import BACKING_FORMAT

NAME, TOP, COPY = base_name(VOLUME), overlay_name(VOLUME, SNAPSHOT), base_name(OTHER_VOLUME)
BATTERY = battery()
IMPORT_BOUND = 1 << 30


@dataclass(frozen=True)
class Site:
    """A hostile file in its share, an honest overlay ``TOP`` above it, and where copies go."""

    place: Place
    case: Hostile
    outside: Path

    @property
    def share(self) -> Path:
        return self.place.directory

    @property
    def size(self) -> int:
        return SIZE if self.case.format == "qcow2" else LENGTH

    @property
    def source(self) -> Source:
        return Source(NAME, self.case.format, 1)


Verb = Callable[[Site], Any]
# These open the file and nothing behind it.
ALONE: dict[str, Verb] = {
    "read": lambda s: qcow2.read_as(s.share, NAME, s.case.format),
    "check": lambda s: qemu_img.check(s.share, NAME, s.case.format),
    "count leaks": lambda s: leaked_clusters(s.share, NAME, s.case.format),
    "repair leaks": lambda s: qemu_img.repair_leaks(s.share, NAME, s.case.format),
    "repair": lambda s: qemu_img.repair_all(s.share, NAME, s.case.format),
    "manage_file": lambda s: publish.publish_base(s.share, Image(NAME, s.case.format, s.size), "token", VOLUME),
}
QCOW2_ALONE: dict[str, Verb] = {
    "holds data": lambda s: qcow2.holds_data(s.share, NAME),
    "tables": lambda s: inspection.alone(s.share, NAME, "qcow2"),
    "repoint": lambda s: qemu_img.repoint(s.share, NAME, "honest", "qcow2"),
}
# These open the file with all that is behind it.
CHAIN: dict[str, Verb] = {
    "look": lambda s: inspection.chain_of(s.share, NAME, s.case.format),
    "read chain": lambda s: qemu_img.read_chain(s.share, VOLUME, NAME, s.case.format),
    "resize": lambda s: qemu_img.resize(s.share, NAME, s.case.format, 2 * SIZE),
    "extents": lambda s: extents.extents(s.share, NAME, s.case.format, 1),
    "extents shared": lambda s: extents.extents(s.share, NAME, s.case.format, 1, shared=True),
    "copy": lambda s: copies.publish_copy(s.share, s.source, Image(COPY, "qcow2", 2 * SIZE), "token", OTHER_VOLUME),
    "copy to raw": lambda s: copies.publish_copy(s.share, s.source, Image(COPY, "raw", 2 * SIZE), "token", OTHER_VOLUME),
    "copy above": lambda s: copies.publish_copy(
        s.share, s.source, Image(COPY, "qcow2", 2 * SIZE, "honest", "qcow2"), "token", OTHER_VOLUME
    ),
    "copy out": lambda s: copies.copy_out(s.source, s.share, s.outside / "raw", "raw", False),
    "copy out compressed": lambda s: copies.copy_out(s.source, s.share, s.outside / "qcow2", "qcow2", True),
    "compare": lambda s: copies.compare(s.share, s.source, Source("honest", "qcow2", 1)),
    "compare with": lambda s: copies.compare(s.share, Source("honest", "qcow2", 1), s.source),
}
QCOW2_CHAIN: dict[str, Verb] = {
    "commit": lambda s: qemu_img.commit(s.share, NAME, "honest", 2),
    "pull": lambda s: qemu_img.pull(s.share, NAME, None, None, 2),
    "layer out": lambda s: copies.copy_layer_out(s.share, s.source, s.outside / "layer", "full"),
}
HEADER_ONLY = ("read", "holds data", "manage_file", "read chain", "read chain from above")  # these never go on to QEMU
# For marks of other formats, which none of these looks at any more than at the marks of qcow2.
ESSENTIAL = ("copy", "copy to raw", "copy out", "extents", "resize", "commit into", "pull from", "check")
ABOVE = Source(TOP, "qcow2", 2)
# These open the honest overlay above it, and the file as what is behind.
BEHIND: dict[str, Verb] = {
    "look from above": lambda s: inspection.chain_of(s.share, TOP, "qcow2"),
    "read chain from above": lambda s: qemu_img.read_chain(s.share, VOLUME, TOP),
    "commit into": lambda s: qemu_img.commit(s.share, TOP, NAME, 2),
    "pull from": lambda s: qemu_img.pull(s.share, TOP, None, None, 2),
    "resize above": lambda s: qemu_img.resize(s.share, TOP, "qcow2", 4 * SIZE),
    "extents from above": lambda s: extents.extents(s.share, TOP, "qcow2", 2, shared=True),
    "copy from above": lambda s: copies.publish_copy(s.share, ABOVE, Image(COPY, "qcow2", 2 * SIZE), "token", OTHER_VOLUME),
    "copy out from above": lambda s: copies.copy_out(ABOVE, s.share, s.outside / "raw", "raw", False),
    "layer out from above": lambda s: copies.copy_layer_out(s.share, ABOVE, s.outside / "layer", "full"),
    "compare from above": lambda s: copies.compare(s.share, ABOVE, Source("honest", "qcow2", 1)),
}


def verbs(case: Hostile) -> dict[str, Verb]:
    """What can be asked of a file of this format; for REFUSE, only what must refuse it."""
    found = {**CHAIN, **BEHIND}
    if case.format == "qcow2":
        found |= QCOW2_CHAIN
    if case.fate is Fate.REFUSE and case.alone:
        return found
    found = {**found, **ALONE, **(QCOW2_ALONE if case.format == "qcow2" else {})}
    return {label: verb for label, verb in found.items() if not (case.header_only and label in HEADER_ONLY)}


@pytest.fixture
def door() -> Iterator[socket.socket]:
    """A port on which a connection is noticed: it waits in the queue."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def site_of(tmp_path: Path, door: socket.socket) -> Callable[[Hostile, str], Site]:
    """Builds a case anew in directories of its own."""
    canary = tmp_path / "canary"
    canary.write_bytes(CANARY)

    def build(case: Hostile, label: str) -> Site:
        share, outside = tmp_path / label / "share", tmp_path / label / "outside"
        share.mkdir(parents=True)
        outside.mkdir()
        place = Place(share, NAME, canary, door.getsockname()[1])
        (share / "honest").write_bytes(file_of(small().start()))
        above = small(size=2 * SIZE, backing=NAME.encode(), extensions=[(BACKING_FORMAT, case.format.encode())])
        (share / TOP).write_bytes(file_of(above.start()))
        case.build(place)
        return Site(place, case, outside)

    return build


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Forbids to start programs and remembers who tried."""
    tried: list[object] = []

    def refuse(command: object, **_more: object) -> None:
        tried.append(command)
        raise AssertionError(f"a program was started: {command}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    return tried


def named(fate: Fate) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [case for case in BATTERY if case.fate is fate], ids=lambda case: case.name)


def test_the_hostile_files_are_complete_and_have_unique_names() -> None:
    assert len({case.name for case in BATTERY}) == len(BATTERY) >= 60


@named(Fate.REFUSE)
def test_what_is_to_be_refused_is_refused_by_every_verb_before_any_program_runs(
    case: Hostile, site_of: Callable[[Hostile, str], Site], no_programs: list[object], door: socket.socket
) -> None:
    for number, (label, verb) in enumerate(verbs(case).items()):
        site = site_of(case, str(number))
        before = contents(site)
        with pytest.raises(StillframeError) as told:
            verb(site)
        assert told.value.code != "internal", label
        if label != "publish":
            assert contents(site) == before, f"{label} changed something"
    assert no_programs == []
    assert not knocked(door)


def contents(site: Site) -> dict[str, tuple[int, ...]]:
    """Which entries the share has, and what a change of any of them would change."""
    found = {each.name: each.lstat() for each in site.share.rglob("*") if each.name != workdir.NAME}
    return {name: (each.st_ino, each.st_nlink, each.st_size, each.st_mtime_ns) for name, each in found.items()}


def is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def knocked(door: socket.socket) -> bool:
    return bool(select.select([door], [], [], 0)[0])


@named(Fate.BYTES_ONLY)
def test_what_a_guest_wrote_on_a_raw_disk_is_bytes_to_every_verb(
    case: Hostile, site_of: Callable[[Hostile, str], Site], door: socket.socket
) -> None:
    asked = verbs(case) if case.name.startswith("guest-") else {label: verbs(case)[label] for label in ESSENTIAL}
    for number, (label, verb) in enumerate(asked.items()):
        site = site_of(case, str(number))
        written = site.place.path.read_bytes()
        done_or_refused(verb, site)
        check_contained(site, door, label)
        if site.place.path.exists():
            held = site.place.path.read_bytes()
            assert same(held, written), f"{label} changed the disk"
        for produced in flattened(site):
            assert same(produced, written), f"{label} made something else of the disk"


def same(one: bytes, other: bytes) -> bool:
    """Whatever follows the shorter one is zeros."""
    length = max(len(one), len(other))
    return one.ljust(length, b"\0") == other.ljust(length, b"\0")


@named(Fate.CONTAINED)
def test_a_file_that_qemu_may_open_leads_to_no_other(
    case: Hostile, site_of: Callable[[Hostile, str], Site], door: socket.socket
) -> None:
    for number, (label, verb) in enumerate(verbs(case).items()):
        site = site_of(case, str(number))
        done_or_refused(verb, site)
        check_contained(site, door, label)
        assert not list(flattened(site, search=True))
        for path in (*site.share.rglob("*"), *site.outside.iterdir()):
            if not path.is_dir() or path.is_symlink():
                path.unlink()


def done_or_refused(verb: Verb, site: Site) -> None:
    try:
        verb(site)
    except StillframeError as error:
        assert error.code != "internal"


def check_contained(site: Site, door: socket.socket, label: str) -> None:
    assert not knocked(door), f"{label} opened a connection"
    assert site.place.canary.read_bytes() == CANARY, f"{label} changed the canary"
    for path in (*site.share.rglob("*"), *site.outside.iterdir()):
        if is_file(path) and path.stat().st_blocks * 512 < 1 << 27:
            assert not holds_canary(path), f"{label} put the canary's content into {path.name}"


def holds_canary(path: Path) -> bool:
    """Reads what a file of any length really holds."""
    with path.open("rb") as file:
        length, at = path.stat().st_size, 0
        while at < length:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return False
            if CANARY[:32] in os.pread(file.fileno(), (1 << 20) + 64, at):
                return True
            at += 1 << 20
    return False


def flattened(site: Site, search: bool = False) -> Iterator[bytes]:
    """The content of every new file a verb made; with ``search`` only of those that hold the canary."""
    made = [(site.share, COPY), (site.share, "temporary"), (site.outside, "raw"), (site.outside, "qcow2")]
    for directory, name in made:
        path = directory / name
        if not path.exists():
            continue
        with path.open("rb") as file:
            format_ = "qcow2" if file.read(4) == b"QFI\xfb" and name != "raw" and not raw_copy(site, name) else "raw"
        target = site.outside / f"flat-{name}"
        words = ["qemu-img", "convert", "-f", format_, "-O", "raw", name, str(target)]
        if subprocess.run(words, cwd=directory, capture_output=True, check=False).returncode == 0:
            if not search:
                yield target.read_bytes()
            elif holds_canary(target):
                yield CANARY
        target.unlink(missing_ok=True)


def raw_copy(site: Site, name: str) -> bool:
    """A raw copy of a disk with a qcow2 header begins like a qcow2 file; it is as long as was asked, to the byte."""
    return name == COPY and (site.share / name).stat().st_size == 2 * SIZE


@pytest.mark.parametrize("case", BATTERY, ids=lambda case: case.name)
def test_an_uploaded_file_is_accepted_only_as_what_it_was_declared(
    case: Hostile, site_of: Callable[[Hostile, str], Site], no_programs: list[object]
) -> None:
    site = site_of(case, "0")
    if case.importable:
        assert imports.inspect_import(site.place.path, case.format, IMPORT_BOUND).backing is None
    else:
        with pytest.raises(BadImage):
            imports.inspect_import(site.place.path, case.format, IMPORT_BOUND)
    with pytest.raises(BadImage, match="not accepted"):
        imports.inspect_import(site.place.path, "vmdk", IMPORT_BOUND)
    assert no_programs == []


@pytest.mark.parametrize("name", ["backing-absolute", "backing-json"])
def test_the_canary_is_found_where_qemu_is_led_to_it(name: str, site_of: Callable[[Hostile, str], Site]) -> None:
    """QEMU itself follows these names: were they not refused, the checks above would see it."""
    case = next(case for case in BATTERY if case.name == name)
    site = site_of(case, "0")
    words = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", NAME, str(site.outside / "raw")]
    subprocess.run(words, cwd=site.share, check=True)
    assert holds_canary(site.outside / "raw")


def test_the_listening_socket_notices_a_connection(site_of: Callable[[Hostile, str], Site], door: socket.socket) -> None:
    case = next(case for case in BATTERY if case.name == "backing-nbd")
    site = site_of(case, "0")
    words = ["qemu-img", "info", "-f", "qcow2", "--backing-chain", NAME]
    with subprocess.Popen(words, cwd=site.share, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as program:
        try:
            assert select.select([door], [], [], 30)[0]
        finally:
            program.kill()

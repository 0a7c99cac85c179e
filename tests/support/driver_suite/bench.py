"""One share under test, a volume's files on it with what each must read as, and the list of checks."""

import os
import shutil
import stat
import subprocess
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.errors import BadImage, ShareUnavailable
from stillframe.host import mounts, workdir
from stillframe.host.copies import Source
from stillframe.host.probe import Prober
from stillframe.volumes.storage.drivers import contract, glusterfs, iscsi, local, markers, native, nfs
from stillframe.volumes.storage.drivers.contract import Capabilities
from stillframe.volumes.storage.drivers.directory import DirectoryShare
from stillframe.volumes.storage.drivers.native import NativeShare
from stillframe.volumes.storage.drivers.shares_config import Export
from tests.support.oracle import GIB, Disk
from tests.support.oracle_reader import Reader, chain

KINDS: dict[str, ModuleType] = {"local": local, "nfs": nfs, "glusterfs": glusterfs, "iscsi": iscsi}
MIB = 1 << 20
Piece = tuple[int, int, int]  # place, blocks, byte; see oracle


@dataclass(frozen=True)
class Bench:
    """A share, mounted at ``path``; ``base`` is the directory below which shares of its kind are mounted, ``scratch`` a
    directory that is on another file system."""

    kind: str
    export: Export
    base: Path
    path: Path
    scratch: Path
    reader: Reader
    live: set[str] = field(default_factory=set)

    @property
    def module(self) -> ModuleType:
        return KINDS[self.kind]

    @property
    def capabilities(self) -> Capabilities:
        found: Capabilities = self.module.CAPABILITIES
        return found

    @property
    def formats(self) -> tuple[str, ...]:
        """What a base may be; the first is what it is where a check does not care."""
        return ("qcow2", "raw") if self.capabilities.chains else ("raw",)

    def share(self, raw: Sequence[str] = (), minimum_free: int = 0, share_id: str | None = None) -> DirectoryShare:
        """The share as a backend opens it, except that no answer of the probe is believed a second time."""
        found = share_id or markers.prepare(self.path)
        if not self.capabilities.chains:
            return NativeShare(self.path, found, minimum_free, lambda: native.volume_files(self.path))
        prober = None if self.capabilities.here else Prober(self.path, fresh_for=0.0)
        able = self.capabilities
        return DirectoryShare(self.path, found, minimum_free, lambda: set(raw), prober, capabilities=able)

    @contextmanager
    def lost(self) -> Iterator[None]:
        """Takes the share away: in its place is an empty directory, as after an unmount."""
        if self.capabilities.here:
            away = self.path.with_name(f"{self.path.name}-away")
            self.path.rename(away)
            self.path.mkdir(mode=0o2770)
            try:
                yield
            finally:
                self.path.rmdir()
                away.rename(self.path)
            return
        mounts.unmount(self.path)
        try:
            yield
            assert not list(self.path.iterdir()), "something was made in the mount point of a share that is away"
        finally:
            self.module.prepare(self.export, self.base)

    @contextmanager
    def volume(self, format_: str | None = None) -> Iterator["Volume"]:
        """A volume's files, with a base of 1 GiB. Afterwards nothing else may have come to the share or gone from it."""
        volume = Volume(self, self.share(), str(uuid.uuid4()))
        self.live.add(volume.id)
        before = self._others()
        try:
            volume.make_base(format_ or self.formats[0])
            yield volume
            mine = {names.info_name(volume.id), names.record_name(volume.id), *volume.disks}
            stray = {name for name in self.names() if volume.id in name} - mine
            assert not stray, f"left on the share: {stray}"
            assert self._others() == before, f"made on the share: {self._others() - before}, gone: {before - self._others()}"
        finally:
            for name in self.names():
                if volume.id in name:
                    with workdir.where(self.path, name) as place:
                        os.unlink(place / name)
            self.live.discard(volume.id)

    def _others(self) -> set[str]:
        """Names on the share that are of no volume under test."""
        return {name for name in self.names() if not any(volume_id in name for volume_id in self.live)}

    def names(self) -> set[str]:
        """Everything but the working directory, and what lies in it."""
        return {name for name in [*os.listdir(self.path), *workdir.lying(self.path)] if name != workdir.NAME}


def open_bench(kind: str, place: Path, export: Export, scratch: Path, reader: Reader) -> Bench:
    """``place`` is where the share is mounted, or the directory to mount it below."""
    if KINDS[kind].CAPABILITIES.here:
        made: Path = KINDS[kind].prepare(Export(str(place)), scratch)
        return Bench(kind, Export(str(place)), place.parent, made, scratch, reader)
    mounted = mounts.find(place) is not None
    base = place.parent if mounted else place
    path: Path = KINDS[kind].prepare(export, base)
    assert not mounted or path == place, f"{export.export} belongs at {path}, it is mounted at {place}"
    return Bench(kind, export, base, path, scratch, reader)


@dataclass
class Volume:
    """A volume's files, ``disks`` what a reader of each must see, ``formats`` how they are recorded."""

    bench: Bench
    share: DirectoryShare
    id: str
    disks: dict[str, Disk] = field(default_factory=dict)
    formats: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        return names.base_name(self.id)

    def token(self) -> str:
        return str(uuid.uuid4())

    def new_name(self) -> str:
        return names.overlay_name(self.id, str(uuid.uuid4()))

    def path(self, name: str) -> Path:
        return self.bench.path / name

    def path_on_the_way(self, token: str) -> Path:
        """Where a file lies before it is published."""
        return self.bench.path / workdir.NAME / names.temporary_name(self.id, token)

    @property
    def format(self) -> str:
        """What a file is that is made in one piece."""
        return self.bench.formats[0]

    def image(self, name: str | None = None, gib: int = 1) -> Image:
        """An image that stands alone, under a new name by default."""
        return Image(name or self.new_name(), self.format, gib * GIB)

    def source(self, name: str) -> Source:
        return Source(name, self.formats.get(name, self.format), 0)

    def second(self, *pieces: Piece) -> str:
        """Another file of the volume that reads as its base, with something written to it: an overlay, or a clone."""
        if self.bench.capabilities.chains:
            return self.overlay(self.base, *pieces)
        disk, image = self.disks[self.base], self.image()
        self.share.clone(self.id, self.base, image, self.token())
        self.known(image.name, disk, "raw")
        if pieces:
            self.write(image.name, *pieces)
        return image.name

    def make_base(self, format_: str) -> None:
        self.share.create(self.id, Image(self.base, format_, GIB), self.token())
        self.known(self.base, Disk(1), format_)
        if format_ == "raw" and self.bench.capabilities.chains:
            self.share = self.bench.share(raw=[self.base])

    def known(self, name: str, disk: Disk, format_: str = "qcow2") -> str:
        """From here on this file must read so."""
        self.disks[name], self.formats[name] = disk, format_
        return name

    def gone(self, *gone: str) -> None:
        for name in gone:
            del self.disks[name], self.formats[name]
            assert name not in self.bench.names(), f"{name} is still there"

    def overlay(self, backing: str, *pieces: Piece, gib: int | None = None) -> str:
        """An overlay on a file, with something written to it."""
        disk = self.disks[backing].grown(gib or self.disks[backing].gib)
        image = Image(self.new_name(), "qcow2", disk.gib * GIB, backing, self.formats[backing])
        self.share.create_overlay(self.id, image, self.token())
        self.known(image.name, disk)
        if pieces:
            self.write(image.name, *pieces)
        return image.name

    def write(self, name: str, *pieces: Piece) -> None:
        self.disks[name] = self.bench.reader.write(self.path(name), self.formats[name], self.disks[name], pieces)

    def check(self) -> None:
        """Checks that every file reads as it must, is sound and accessible only to us, and has no leftovers beside it."""
        self.bench.reader.forget()
        self.bench.reader.look_again()
        for name, disk in self.disks.items():
            wrong = self.bench.reader.differences(self.path(name), self.formats[name], disk)
            assert not wrong, wrong
            found = self.path(name).lstat()
            assert (stat.S_IMODE(found.st_mode), found.st_nlink) == (0o660, 1), f"{name}: {found}"
            if self.formats[name] == "qcow2":
                _sound(self.path(name))
        assert set(self.share.files(self.id)) == set(self.disks)

    def reads(self, path: Path, format_: str, disk: Disk) -> None:
        """Checks a file outside the share."""
        self.bench.reader.forget()
        self.bench.reader.look_again()
        wrong = self.bench.reader.differences(path, format_, disk)
        assert not wrong, wrong

    def layers(self, name: str) -> list[str]:
        """The names of a file's chain, nearest first."""
        return [layer.name for layer in chain(self.path(name), self.formats[name])]


def _sound(path: Path) -> None:
    command = ["qemu-img", "check", "-q", "-f", "qcow2", path.name]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{path.name}: {done.stdout}{done.stderr}"


@contextmanager
def refused(kind: type[Exception], words: str = "") -> Iterator[None]:
    """The block must raise this kind of error."""
    try:
        yield
    except kind as error:
        assert words in str(error), f"the error does not say {words!r}: {error}"
    else:
        raise AssertionError(f"nothing was raised where {kind.__name__} was expected")


Check = Callable[[Bench], None]
EVERYWHERE: dict[str, Check] = {}  # for every kind of share
WITH_CHAINS: dict[str, Check] = {}
NATIVE: dict[str, Check] = {}  # for shares with snapshots of their own
WHEN_SMALL: dict[str, Check] = {}  # for a share of 200 MiB at most, which is filled


def everywhere(check: Check) -> Check:
    EVERYWHERE[check.__name__] = check
    return check


def with_chains(check: Check) -> Check:
    WITH_CHAINS[check.__name__] = check
    return check


def with_native_snapshots(check: Check) -> Check:
    NATIVE[check.__name__] = check
    return check


def checks_for(capabilities: Capabilities) -> dict[str, Check]:
    """What a share with these capabilities is held to."""
    more = WITH_CHAINS if capabilities.chains else {}
    return {**EVERYWHERE, **more, **(NATIVE if capabilities.native_snapshots else {})}


def when_small(check: Check) -> Check:
    WHEN_SMALL[check.__name__] = check
    return check


Call = Callable[[contract.Share, Volume], object]


ONLY_CHAINS = ("create_overlay", "commit", "pull", "repoint", "repair", "holds_data")


def calls(bench: Bench) -> dict[str, Call]:
    """Every method that a share of the kind has, called on a volume with a base and a second file as in daily work."""
    scratch = bench.scratch
    left_out = ("clone",) if bench.capabilities.chains else ONLY_CHAINS

    def second(volume: Volume) -> str:
        return next(name for name in volume.disks if name != volume.base)

    def source(volume: Volume) -> Source:
        return volume.source(second(volume))

    found: dict[str, Call] = {
        "probe": lambda share, _: share.probe(),
        "probe_for_writing": lambda share, _: share.probe_for_writing(),
        "images": lambda share, volume: share.images(volume.id, volume.format),
        "image": lambda share, volume: share.image(volume.base, volume.format),
        "create": lambda share, volume: share.create(volume.id, volume.image(), volume.token()),
        "create_overlay": lambda share, volume: share.create_overlay(
            volume.id, Image(volume.new_name(), "qcow2", GIB, volume.base, "qcow2"), volume.token()
        ),
        "copy": lambda share, volume: share.copy(volume.id, source(volume), volume.image(), volume.token()),
        "clone": lambda share, volume: share.clone(volume.id, second(volume), volume.image(), volume.token()),
        "differing": lambda share, volume: share.differing(second(volume), volume.base),
        "copy_out": lambda share, volume: share.copy_out(source(volume), scratch / "out", "raw", False),
        "copy_layer_out": lambda share, volume: share.copy_layer_out(source(volume), scratch / "layer", "below", volume.base),
        "commit": lambda share, volume: share.commit(volume.id, second(volume), volume.base),
        "pull": lambda share, volume: share.pull(volume.id, second(volume), None, None),
        "repoint": lambda share, volume: share.repoint(volume.id, second(volume), volume.base, "qcow2"),
        "rename": lambda share, volume: share.rename(volume.id, second(volume), volume.new_name()),
        "resize": lambda share, volume: share.resize(volume.id, second(volume), volume.format, 2 * GIB),
        "repair": lambda share, volume: share.repair(volume.id, volume.base, "qcow2"),
        "visible": lambda share, volume: share.visible(second(volume), volume.format),
        "holds_data": lambda share, volume: share.holds_data(second(volume)),
        "sweep": lambda share, _: share.sweep(),
        "free": lambda share, _: share.free(),
        "total": lambda share, _: share.total(),
        "files": lambda share, volume: share.files(volume.id),
        "listing": lambda share, _: share.listing(),
        "in_use": lambda share, volume: share.in_use(volume.id),
        "remove": lambda share, volume: share.remove(volume.id, second(volume)),
        "manage_file": lambda share, volume: share.manage_file(volume.id, "a-file", volume.new_name()),
        "unmanage_file": lambda share, volume: share.unmanage_file(volume.id, second(volume), "given-back"),
        "remove_temporary": lambda share, volume: share.remove_temporary(volume.id, volume.token()),
        "holds_temporary": lambda share, volume: share.holds_temporary(volume.id, volume.token()),
        "read_document": lambda share, volume: share.read_document(names.info_name(volume.id)),
        "write_document": lambda share, volume: share.write_document(names.info_name(volume.id), {"active": "x"}),
        "stamp": lambda share, volume: share.stamp(volume.base),
        "allocated": lambda share, volume: share.allocated(volume.base),
        "dependants": lambda share, volume: share.dependants(volume.base),
        "foreign_readers": lambda share, volume: share.foreign_readers(volume.id, ()),
        "users": lambda share, volume: share.users([volume.base]),
        "check_sound": lambda share, volume: share.check_sound(volume.id),
        "check_whole": lambda share, volume: share.check_whole(volume.base, volume.format, 60.0),
        "make_sound": lambda share, volume: share.make_sound(volume.id),
    }
    return {name: call for name, call in found.items() if name not in left_out}


def expect_all_unavailable(bench: Bench, share: contract.Share, volume: Volume) -> None:
    """Checks that no method takes a missing answer for an answer."""
    wrong = []
    for name, call in calls(bench).items():
        try:
            answer = call(share, volume)
        except ShareUnavailable:
            continue
        except (BadImage, OSError, AssertionError) as error:
            wrong.append(f"{name} raised {type(error).__name__}: {error}")
        else:
            wrong.append(f"{name} answered {answer!r}")
    assert not wrong, wrong


def clean(scratch: Path) -> None:
    for path in scratch.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()

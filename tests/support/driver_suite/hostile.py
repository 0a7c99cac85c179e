"""Invalid names, entries that are not files, and raw content that looks like a header."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.errors import BadImage, ChainConflict, StepFailed, StillframeError
from stillframe.host.copies import Source
from tests.support.driver_suite.bench import (
    ONLY_CHAINS,
    Bench,
    Volume,
    calls,
    everywhere,
    refused,
    with_chains,
)
from tests.support.oracle import GIB

CANARY = b"the host's own secret " * 4096
OTHER = "2b2b2b2b-2222-4222-8222-222222222222"
Verb = Callable[[Volume, str], object]


def _verbs(bench: Bench) -> dict[str, Verb]:
    """Every verb that takes a name, with that name as each of its parameters."""
    scratch, format_ = bench.scratch, bench.formats[0]
    left_out = ("clone",) if bench.capabilities.chains else ONLY_CHAINS

    def source(name: str) -> Source:
        return Source(name, format_, 0)

    found: dict[str, Verb] = {
        "image": lambda volume, name: volume.share.image(name, format_),
        "image as raw": lambda volume, name: volume.share.image(name, "raw"),
        "create": lambda volume, name: volume.share.create(volume.id, Image(name, format_, GIB), "1"),
        "create_overlay": lambda volume, name: volume.share.create_overlay(
            volume.id, Image(name, "qcow2", GIB, volume.base, "qcow2"), "1"
        ),
        "copy to": lambda volume, name: volume.share.copy(volume.id, source(volume.base), Image(name, format_, GIB), "1"),
        "copy from": lambda volume, name: volume.share.copy(volume.id, source(name), volume.image(), "1"),
        "clone to": lambda volume, name: volume.share.clone(volume.id, volume.base, Image(name, format_, GIB), "1"),
        "clone from": lambda volume, name: volume.share.clone(volume.id, name, volume.image(), "1"),
        "copy_out": lambda volume, name: volume.share.copy_out(source(name), scratch / "out", "raw", False),
        "copy_layer_out": lambda volume, name: volume.share.copy_layer_out(
            source(name), scratch / "out", "below", None if bench.capabilities.chains else volume.base
        ),
        "commit from": lambda volume, name: volume.share.commit(volume.id, name, volume.base),
        "commit into": lambda volume, name: volume.share.commit(volume.id, _top(volume), name),
        "pull": lambda volume, name: volume.share.pull(volume.id, name, None, None),
        "repoint": lambda volume, name: volume.share.repoint(volume.id, name, volume.base, "qcow2"),
        "rename": lambda volume, name: volume.share.rename(volume.id, name, volume.new_name()),
        "resize": lambda volume, name: volume.share.resize(volume.id, name, format_, 2 * GIB),
        "repair": lambda volume, name: volume.share.repair(volume.id, name, "qcow2"),
        "visible": lambda volume, name: volume.share.visible(name, format_),
        "holds_data": lambda volume, name: volume.share.holds_data(name),
        "remove": lambda volume, name: volume.share.remove(volume.id, name),
        "unmanage_file": lambda volume, name: volume.share.unmanage_file(volume.id, name, "given-back"),
    }
    return {name: call for name, call in found.items() if name.split()[0] not in left_out}


_TARGETS: dict[str, Verb] = {
    "repoint to": lambda volume, name: volume.share.repoint(volume.id, _top(volume), name, "qcow2"),
    "rename to": lambda volume, name: volume.share.rename(volume.id, _top(volume), name),
    "adopt as": lambda volume, name: volume.share.manage_file(volume.id, f"foreign-{volume.id}", name),
}
_PLAIN: dict[str, Verb] = {  # these take any plain name, so only those that lead elsewhere are refused
    "manage_file": lambda volume, name: volume.share.manage_file(volume.id, name, volume.new_name()),
    "unmanage_file to": lambda volume, name: volume.share.unmanage_file(volume.id, _top(volume), name),
    "read_document": lambda volume, name: volume.share.read_document(name),
    "write_document": lambda volume, name: volume.share.write_document(name, {"a": 1}),
    "write_document empty": lambda volume, name: volume.share.write_document(name, {}),
    "allocated": lambda volume, name: volume.share.allocated(name),
}
_MAKING = ("create", "create_overlay", "copy to", "clone to")
_READERS = ("clone from", "image", "image as raw", "copy from", "copy_out", "copy_layer_out", "visible", "holds_data")


def _targets(bench: Bench) -> dict[str, Verb]:
    return {name: call for name, call in _TARGETS.items() if bench.capabilities.chains or name != "repoint to"}


def _top(volume: Volume) -> str:
    return next(name for name in volume.disks if name != volume.base)


def _leading_elsewhere(bench: Bench) -> list[str]:
    return [
        f"../{bench.path.name}/canary",
        str(bench.scratch / "canary"),
        "sub/canary",
        "..",
        ".",
        "",
        "a\0b",
        "a\nb",
        "-n",
        "json:{}",
        "nbd:localhost:1",
    ]


@everywhere
def names_that_lead_elsewhere_are_refused_by_every_verb(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.second((0, 1, 5))
        (bench.scratch / "canary").write_bytes(CANARY)
        before = bench.names()
        for verb, call in {**_verbs(bench), **_targets(bench), **_PLAIN}.items():
            for name in _leading_elsewhere(bench):
                _refuses(verb, call, volume, name)
        assert bench.names() == before
        assert (bench.scratch / "canary").read_bytes() == CANARY
        volume.check()


def _refuses(verb: str, call: Verb, volume: Volume, name: str) -> None:
    try:
        call(volume, name)
    except BadImage:
        return
    except Exception as error:
        raise AssertionError(f"{verb}({name!r}) raised {type(error).__name__}: {error}") from error
    raise AssertionError(f"{verb}({name!r}) was done")


@with_chains
def names_of_another_volume_are_refused_by_every_verb_that_changes_something(bench: Bench) -> None:
    with bench.volume() as volume, bench.volume() as other:
        volume.overlay(volume.base, (0, 1, 5))
        others = other.overlay(other.base, (0, 1, 6))
        before = bench.names()
        changing = {name: call for name, call in _verbs(bench).items() if name not in _READERS}
        for verb, call in {**changing, **_targets(bench)}.items():
            for name in (other.base, others, names.info_name(volume.id), f"{volume.base}.x", f".tmp.{volume.id}.1"):
                _refuses(verb, call, volume, name)
        with refused(StepFailed, "not behind"):
            volume.share.pull(volume.id, _top(volume), other.base, "qcow2")
        assert bench.names() == before
        volume.check()
        other.check()


@everywhere
def links_and_special_files_in_the_place_of_a_volumes_file_are_never_opened(bench: Bench) -> None:
    canary = bench.scratch / "canary"
    canary.write_bytes(CANARY)
    for make in (_symbolic_link, _symbolic_link_inside, _hard_link, _fifo, _directory):
        with bench.volume() as volume:
            volume.second((0, 1, 5))
            name = volume.new_name()
            make(volume, name, canary)
            for verb, call in _verbs(bench).items():
                if verb not in (*_MAKING, "rename", "remove", "unmanage_file", "commit into"):
                    _refuses(verb, call, volume, name)
            for verb in sorted(set(_MAKING) & set(_verbs(bench))):
                with refused(StillframeError):
                    _verbs(bench)[verb](volume, name)
            with refused(BadImage):
                volume.share.images(volume.id, volume.format)
            volume.share.remove_temporary(volume.id, "1")
            _take_away(volume.path(name))
            assert canary.read_bytes() == CANARY
            volume.check()


def _symbolic_link(volume: Volume, name: str, canary: Path) -> None:
    volume.path(name).symlink_to(canary)


def _symbolic_link_inside(volume: Volume, name: str, _canary: Path) -> None:
    volume.path(name).symlink_to(volume.base)


def _hard_link(volume: Volume, name: str, _canary: Path) -> None:
    other = volume.path(f"other-{volume.id}")
    other.write_bytes(CANARY)
    os.link(other, volume.path(name))


def _fifo(volume: Volume, name: str, _canary: Path) -> None:
    os.mkfifo(volume.path(name))


def _directory(volume: Volume, name: str, _canary: Path) -> None:
    volume.path(name).mkdir()


def _take_away(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()
    for other in path.parent.glob("other-*"):
        other.unlink()


@with_chains
def a_backing_file_that_is_a_link_stops_every_verb_that_reads_through_it(bench: Bench) -> None:
    with bench.volume() as volume:
        top = volume.overlay(volume.base, (0, 1, 5))
        (bench.scratch / "canary").write_bytes(CANARY)
        away = volume.path(volume.base).rename(volume.path(f"away-{volume.id}"))
        volume.path(volume.base).symlink_to(bench.scratch / "canary")
        for verb in ("copy from", "copy_out", "copy_layer_out", "pull", "visible", "commit from"):
            _refuses(verb, _verbs(bench)[verb], volume, top)
        volume.path(volume.base).unlink()
        for verb in ("copy from", "copy_out", "copy_layer_out", "pull", "visible"):
            with refused(ChainConflict, "does not exist"):
                _verbs(bench)[verb](volume, top)
        away.rename(volume.path(volume.base))
        volume.check()


@with_chains
def a_raw_file_is_never_taken_for_an_image_whatever_lies_in_it(bench: Bench) -> None:
    """A guest that owns a raw disk writes a header that names a file of the host (R3)."""
    with bench.volume("raw") as volume:
        canary = bench.scratch / "canary"
        canary.write_bytes(CANARY)
        header = _header(os.fsencode(canary))
        with volume.path(volume.base).open("r+b") as file:
            file.write(header)
        image = Image(volume.base, "raw", GIB)
        assert volume.share.image(volume.base, "raw") == image
        assert volume.share.images(volume.id, "raw") == {volume.base: image}
        assert volume.share.dependants(canary.name) == []
        copy, top = volume.new_name(), volume.new_name()
        volume.share.create_overlay(volume.id, Image(top, "qcow2", GIB, volume.base, "raw"), "1")
        volume.share.copy(volume.id, Source(top, "qcow2", 0), Image(copy, "raw", GIB), "2")
        volume.share.copy_out(Source(volume.base, "raw", 0), bench.scratch / "out", "raw", False)
        volume.share.commit(volume.id, top, volume.base)
        volume.share.resize(volume.id, volume.base, "raw", GIB)
        assert sum(volume.share.visible(volume.base, "raw")) < 1 << 20
        for path in (volume.path(volume.base), volume.path(copy), bench.scratch / "out"):
            with path.open("rb") as file:
                assert file.read(len(header)) == header, f"{path.name} reads otherwise"
        for name in (copy, top):
            os.unlink(volume.path(name))


@with_chains
def a_raw_file_that_names_a_volumes_file_depends_on_nothing(bench: Bench) -> None:
    with bench.volume() as volume, bench.volume("raw") as hostile:
        top = volume.overlay(volume.base)
        with hostile.path(hostile.base).open("r+b") as file:
            file.write(_header(top.encode()))
        share = bench.share(raw=[hostile.base])
        assert share.dependants(top) == []
        share.remove(volume.id, top)
        volume.gone(top)
        volume.check()


def _header(backing: bytes) -> bytes:
    """A header of version 3 with a backing file and its format."""
    size, at = GIB, 512
    fields = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, at, len(backing), 16, size, 0, 2, 3 << 16, 1 << 16, 1, 0, 0)
    rest = struct.pack(">QQQII", 0, 0, 0, 4, 104)
    extension = struct.pack(">II5s3x", 0xE2792ACA, 5, b"qcow2") + bytes(8)
    return (fields + rest + extension).ljust(at, b"\0") + backing.ljust(512, b"\0")


@with_chains
def a_header_that_leads_out_of_the_share_is_refused_by_every_verb(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.overlay(volume.base, (0, 1, 5))
        canary = bench.scratch / "canary"
        canary.write_bytes(CANARY)
        for backing in (os.fsencode(canary), b"json:{}", b"../x", b"nbd:localhost:1"):
            name = volume.new_name()
            volume.path(name).write_bytes(_header(backing).ljust(1 << 18, b"\0"))
            volume.path(name).chmod(0o660)
            others = ("create", "create_overlay", "copy to", "rename", "remove", "unmanage_file", "image as raw", "commit into")
            for verb, call in _verbs(bench).items():
                if verb not in others:
                    _refuses(verb, call, volume, name)
            volume.path(name).unlink()
        volume.check()


@everywhere
def documents_that_are_none_are_refused(bench: Bench) -> None:
    with bench.volume() as volume:
        name = names.info_name(volume.id)
        for content in (b"", b"{", b"[1]", b"\xff\xfe", b'"text"', b"QFI\xfb" * 100):
            volume.path(name).write_bytes(content)
            with refused(BadImage, name):
                volume.share.read_document(name)
        volume.path(name).unlink()
        (bench.scratch / "canary").write_text('{"active": "x"}')
        volume.path(name).symlink_to(bench.scratch / "canary")
        with refused(BadImage):
            volume.share.read_document(name)
        volume.share.write_document(name, {"active": "y"})
        assert (bench.scratch / "canary").read_text() == '{"active": "x"}'
        assert volume.share.read_document(name) == {"active": "y"}


@everywhere
def every_method_of_the_contract_is_called_by_this_suite(bench: Bench) -> None:
    from stillframe.volumes.storage.drivers import contract

    promised = {name for name in vars(contract.Share) if not name.startswith("_")}
    told = {"path", "capabilities", "format_of"}  # these ask nothing of the share
    assert set(calls(bench)) == promised - told - set(("clone",) if bench.capabilities.chains else ONLY_CHAINS)
    assert bench.share().capabilities == bench.capabilities
    assert bench.share().path == bench.path

"""Copies of a chain's content into the share, out of it and back in: byte for byte, and of nothing that is behind."""

import random
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stillframe.chain.image import Image
from stillframe.chain.names import base_name, overlay_name, temporary_name
from stillframe.errors import BadImage, ChainConflict, StepFailed
from stillframe.host import copies, extents, files, imports, pins, qcow2, qemu_img, run, workdir
from stillframe.host.copies import Source
from tests.support.layers import KIB, MIB, Layers, opened
from tests.support.let_in import let_in
from tests.unit.builders import OTHER_VOLUME, SNAPSHOT

COPY = base_name(OTHER_VOLUME)
TOP = Source("top", "qcow2", 4)


@pytest.fixture(params=["raw", "qcow2"])
def tower(request: pytest.FixtureRequest, tmp_path: Path) -> Layers:
    made = Layers(tmp_path / "share")
    made.share.mkdir()
    made.tower(request.param)
    return made


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    made = Layers(tmp_path / "share")
    made.share.mkdir()
    return made


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system that shares blocks between files."""
    disk, mounted = tmp_path / "xfs", tmp_path / "mounted"
    mounted.mkdir()
    with disk.open("wb") as file:
        file.truncate(400 * MIB)
    try:
        subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", disk], check=True)
        # Else XFS may keep as much behind the end of a file that grew as it holds, until its writing-out has caught up.
        subprocess.run(["mount", "-o", "loop,allocsize=64k", disk, mounted], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.fail(f"this test needs xfsprogs, root and a loop device: {error}")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)


def copied(layers: Layers, image: Image, source: Source = TOP) -> bytes:
    copies.publish_copy(layers.share, source, image, "token", OTHER_VOLUME)
    assert qcow2.read_as(layers.share, image.name, image.format) == image
    assert stat.S_IMODE((layers.share / image.name).stat().st_mode) == 0o660
    assert workdir.lying(layers.share) == []
    return layers.read(image.name, image.format)


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
@pytest.mark.parametrize("size", [4 * MIB, 5 * MIB])
def test_a_copy_reads_as_its_source_and_zeros_behind_its_end(tower: Layers, format_: str, size: int) -> None:
    assert copied(tower, Image(COPY, format_, size)) == tower.content["top"].ljust(size, b"\0")
    tower.check()


def test_a_copy_needs_nothing_of_its_source(tower: Layers) -> None:
    copied(tower, Image(COPY, "qcow2", 4 * MIB))
    for name in tower.content:
        (tower.share / name).unlink()
    assert tower.read(COPY, "qcow2") == tower.content["top"]


def test_a_copy_of_a_layer_in_the_middle_reads_as_that_layer(tower: Layers) -> None:
    assert copied(tower, Image(COPY, "qcow2", 4 * MIB), Source("one", "qcow2", 2)) == tower.content["one"]


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
@pytest.mark.parametrize("backing_size", [2 * MIB, 4 * MIB, 8 * MIB])
@pytest.mark.parametrize("size", [4 * MIB, 6 * MIB])
def test_a_copy_above_a_backing_file_holds_all_of_the_content_itself(
    tower: Layers, format_: str, backing_size: int, size: int
) -> None:
    tower.base("garbage", format_, backing_size)
    tower.write("garbage", 0, backing_size, 0xEE)
    expected = tower.content["top"].ljust(size, b"\0")
    assert copied(tower, Image(COPY, "qcow2", size, "garbage", format_)) == expected
    tower.write("garbage", 0, backing_size, 0xDD)  # what lies behind is never read, whatever it becomes
    assert tower.read(COPY, "qcow2") == expected
    assert all(each.depth == 0 for each in extents.extents(tower.share, COPY, "qcow2", 2) if each.present)


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_a_single_file_is_copied_to_either_format(tower: Layers, format_: str) -> None:
    source = Source("base", tower.formats["base"], 1)
    assert copied(tower, Image(COPY, format_, 4 * MIB), source) == tower.content["base"]


def test_a_copy_takes_no_space_for_zeros(layers: Layers) -> None:
    layers.base("base", "raw", 64 * MIB)
    layers.write("base", 0, 32 * MIB, 0)
    layers.write("base", MIB, MIB, 1)
    copied(layers, Image(COPY, "qcow2", 64 * MIB), Source("base", "raw", 1))
    assert files.allocated(layers.share, COPY) < 2 * MIB


def test_a_copy_too_small_for_its_source_is_refused_before_anything_is_made(tower: Layers) -> None:
    before = set(files.listing(tower.share))
    with pytest.raises(StepFailed, match="does not fit"):
        copied(tower, Image(COPY, "qcow2", 4 * MIB - 512))
    assert set(files.listing(tower.share)) == before


def test_a_copy_may_be_repeated_and_keeps_what_was_published(tower: Layers) -> None:
    copied(tower, Image(COPY, "qcow2", 4 * MIB))
    inode = (tower.share / COPY).stat().st_ino
    copied(tower, Image(COPY, "qcow2", 4 * MIB))
    assert (tower.share / COPY).stat().st_ino == inode
    with pytest.raises(StepFailed, match="another file"):
        copied(tower, Image(COPY, "qcow2", 5 * MIB))


def test_an_interrupted_copy_is_made_again(tower: Layers) -> None:
    with workdir.working(tower.share) as place:
        (place / temporary_name(OTHER_VOLUME, "token")).write_bytes(b"QFI")
    assert copied(tower, Image(COPY, "qcow2", 4 * MIB)) == tower.content["top"]


def test_a_copy_that_differs_is_never_published(tower: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system lies: between copying and comparing one byte of the copy changes."""
    real = copies._equal

    def changed(one: copies._Held, other: copies._Held) -> bool:
        name = other.pinned.images[0].name
        with workdir.working(tower.share) as place:
            Layers(place, {name: bytes(MIB)}, {name: "qcow2"}).write(name, 0, 1, 0xEE)
        return real(one, other)

    monkeypatch.setattr(copies, "_equal", changed)
    with pytest.raises(StepFailed, match="differs"):
        copies.publish_copy(tower.share, TOP, Image(COPY, "qcow2", 4 * MIB), "token", OTHER_VOLUME)
    assert set(files.listing(tower.share)) == set(tower.content)


def test_two_that_read_the_same_compare_equal_whatever_their_chains(tower: Layers) -> None:
    copied(tower, Image(COPY, "raw", 5 * MIB))
    other = Source(COPY, "raw", 1)
    assert copies.compare(tower.share, TOP, other)
    with (tower.share / COPY).open("r+b") as file:
        file.seek(3 * MIB + 5)
        file.write(b"x")
    assert not copies.compare(tower.share, TOP, other)


def test_a_missing_layer_is_told_before_qemu_sees_the_chain(tower: Layers) -> None:
    (tower.share / "one").unlink()
    with pytest.raises(ChainConflict, match="two names one as its backing file, which does not exist"):
        copied(tower, Image(COPY, "qcow2", 4 * MIB))


def test_a_single_file_is_copied_by_sharing_its_blocks_where_the_file_system_can(xfs: Path) -> None:
    layers = Layers(xfs)
    layers.base("base", "qcow2", 128 * MIB)
    layers.write("base", 0, 64 * MIB, 1)
    free = files.free_bytes(xfs)
    for name, size in ((base_name(OTHER_VOLUME), 128 * MIB), (overlay_name(OTHER_VOLUME, SNAPSHOT), 129 * MIB)):
        assert copied(layers, Image(name, "qcow2", size), Source("base", "qcow2", 1)) == layers.content["base"].ljust(
            size, b"\0"
        )
    assert free - settled_free(xfs) < 16 * MIB


def settled_free(xfs: Path) -> int:
    """What is free once all is written out: until then XFS counts the most that it may need for it."""
    subprocess.run(["sync", "-f", xfs], check=True)
    return files.free_bytes(xfs)


def test_a_chain_is_copied_by_sharing_its_blocks_where_the_file_system_can(xfs: Path) -> None:
    layers = Layers(xfs)
    layers.base("base", "qcow2", 64 * MIB)
    layers.write("base", 0, 32 * MIB, 1)
    layers.overlay("top", "base")
    layers.write("top", MIB, 16 * MIB, 2)
    layers.zero("top", 40 * MIB, MIB)
    layers.base("garbage", "qcow2", 64 * MIB)
    layers.write("garbage", 0, 64 * MIB, 0xEE)
    above = Image(overlay_name(OTHER_VOLUME, SNAPSHOT), "qcow2", 64 * MIB, "garbage", "qcow2")
    used: list[int] = []
    while not used or (used[-1] >= 16 * MIB and len(used) < 3):  # a busy kernel may refuse to share now and then
        free = settled_free(xfs)
        for image in (Image(COPY, "qcow2", 64 * MIB), above):
            assert copied(layers, image, Source("top", "qcow2", 2)) == layers.content["top"]
        used.append(free - settled_free(xfs))
        for image in (Image(COPY, "qcow2", 64 * MIB), above):
            files.remove(xfs, image.name)
    assert used[-1] < 16 * MIB, used


def test_a_reflink_is_not_made_where_the_file_system_cannot(tmp_path: Path, xfs: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    for target in (tmp_path / "b", xfs / "b"):
        target.write_bytes(b"")
        with pins.alone(tmp_path, "a", "raw") as source:
            assert not files.reflink(source.handle("a"), target.parent, "b"), "needs a file system without reflinks"
        assert target.read_bytes() == b""


def test_a_file_somebody_writes_to_is_not_reflinked(xfs: Path) -> None:
    layers = Layers(xfs)
    layers.base("base", "raw", MIB)
    (xfs / "copy").write_bytes(b"")
    with copies._hold(xfs, Source("base", "raw", 1)) as held:
        with opened(xfs, "base", "raw"):
            assert not copies._share_blocks(held, xfs, "copy")
        assert copies._share_blocks(held, xfs, "copy")


@pytest.mark.parametrize(("format_", "compress"), [("raw", False), ("qcow2", False), ("qcow2", True)])
def test_a_chain_is_written_out_as_one_file(tower: Layers, tmp_path: Path, format_: str, compress: bool) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"what an interrupted try left")
    copies.copy_out(TOP, tower.share, target, format_, compress)
    assert Layers(tmp_path).read("out", format_) == tower.content["top"]
    assert qcow2.read_as(tmp_path, "out", format_) == Image("out", format_, 4 * MIB)
    assert stat.S_IMODE(target.stat().st_mode) == 0o660


def test_a_compressed_file_is_smaller(layers: Layers, tmp_path: Path) -> None:
    layers.base("base", "qcow2", 8 * MIB)
    layers.write("base", 0, 8 * MIB, 1)
    copies.copy_out(Source("base", "qcow2", 1), layers.share, tmp_path / "out", "qcow2", True)
    assert (tmp_path / "out").stat().st_size < MIB
    with pytest.raises(StepFailed, match="cannot be compressed"):
        copies.copy_out(Source("base", "qcow2", 1), layers.share, tmp_path / "raw", "raw", True)


def test_only_the_layer_is_written_out_and_its_zeros_still_hide_what_is_behind(tower: Layers, tmp_path: Path) -> None:
    """``one`` has data over data, zeros over data, and nothing over data; ``two`` data over zeros."""
    tower.discard("one", 3 * 64 * KIB, 64 * KIB)  # a guest's TRIM over older data
    for name, below in (("one", "base"), ("two", "one"), ("top", "two")):
        tower.content[name] = tower.read(name)
        copies.copy_layer_out(tower.share, Source(name, "qcow2", 4), tmp_path / "layer", "full")
        assert qcow2.read(tmp_path, "layer") == Image("layer", "qcow2", 4 * MIB, "full", "qcow2")
        Layers(tmp_path).base("full", "qcow2", 4 * MIB)
        copies.copy_out(Source(below, tower.formats[below], 3), tower.share, tmp_path / "full", "qcow2", False)
        assert Layers(tmp_path).read("layer", "qcow2") == tower.content[name], name
        held = [(each.start, each.length) for each in extents.extents(tmp_path, "layer", "qcow2", 2) if each.depth == 0]
        own = [(each.start, each.length) for each in extents.extents(tower.share, name, "qcow2", 4) if each.depth == 0]
        assert sum(length for _, length in held) == sum(length for _, length in own)


@pytest.mark.parametrize("cluster", [4096, 64 * KIB, 2 * MIB])
def test_a_layer_of_any_cluster_size_is_written_out_exactly(layers: Layers, tmp_path: Path, cluster: int) -> None:
    layers.base("base", "raw", 8 * MIB)
    layers.write("base", 0, 8 * MIB, 0x11)
    layers.overlay("top", "base", options=f"cluster_size={cluster}")
    layers.write("top", 3 * cluster, 512, 0x22)
    layers.zero("top", 0, cluster)
    copies.copy_layer_out(layers.share, Source("top", "qcow2", 2), tmp_path / "layer", "full")
    copies.copy_out(Source("base", "raw", 1), layers.share, tmp_path / "full", "qcow2", False)
    assert Layers(tmp_path).read("layer", "qcow2") == layers.content["top"]


def test_a_layer_longer_than_what_is_behind_it_is_written_out_exactly(layers: Layers, tmp_path: Path) -> None:
    layers.base("base", "raw", MIB)
    layers.write("base", 0, MIB, 0x11)
    layers.overlay("top", "base", 2 * MIB)
    layers.write("top", MIB + 64 * KIB, 64 * KIB, 0x22)
    copies.copy_layer_out(layers.share, Source("top", "qcow2", 2), tmp_path / "layer", "full")
    copies.copy_out(Source("base", "raw", 1), layers.share, tmp_path / "full", "qcow2", False)
    assert Layers(tmp_path).read("layer", "qcow2") == layers.content["top"]


def test_what_a_layer_does_not_hold_is_not_read(layers: Layers, tmp_path: Path) -> None:
    layers.base("base", "raw", 64 * MIB)
    layers.write("base", 0, 64 * MIB, 0x11)
    layers.overlay("top", "base")
    layers.write("top", MIB, 64 * KIB, 0x22)
    source, base = Source("top", "qcow2", 2), str(layers.share / "base")
    everything = _traced(tmp_path, lambda: copies.copy_out(source, layers.share, tmp_path / "full", "raw", False))
    assert everything[base] > 60 * MIB, "strace does not see the reads"
    found = _traced(tmp_path, lambda: copies.copy_layer_out(layers.share, source, tmp_path / "layer", "full"))
    assert found.get(base, 0) <= 64 * KIB


def _traced(directory: Path, work: Callable[[], None]) -> dict[str, int]:
    """Runs ``work`` with qemu-img under strace; returns the bytes read of each file."""
    programs, trace = directory / "bin", directory / "trace"
    programs.mkdir(exist_ok=True)
    trace.write_bytes(b"")
    script = programs / "qemu-img"
    calls = "read,pread64,preadv,copy_file_range"
    script.write_text(f'#!/bin/sh\nexec strace -f -y -A -o {trace} -e trace={calls} /usr/bin/qemu-img "$@"\n')
    script.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(run.ENVIRONMENT, "PATH", f"{programs}:/usr/bin:/bin")
        let_in(patch, programs, trace)
        work()
    found: dict[str, int] = {}
    begun: dict[str, str] = {}  # by thread: a call may be told of in two lines
    for line in trace.read_text().splitlines():
        thread = line.split()[0]
        named = re.search(r"\w+\(\d+<([^>]+)>", line)
        begun[thread] = named[1] if named else begun.get(thread, "")
        if ended := re.search(r" = (\d+)$", line):
            found[begun[thread]] = found.get(begun[thread], 0) + int(ended[1])
    return found


def test_a_raw_file_has_no_layer_to_write_out(layers: Layers, tmp_path: Path) -> None:
    layers.base("base", "raw", MIB)
    with pytest.raises(StepFailed, match="no layer"):
        copies.copy_layer_out(layers.share, Source("base", "raw", 1), tmp_path / "layer", "full")


@pytest.mark.parametrize("backing", ["json:{}", "/etc/passwd", "../full", "nbd:x", ""])
def test_a_layer_written_out_names_a_plain_file_only(tower: Layers, tmp_path: Path, backing: str) -> None:
    with pytest.raises(BadImage, match="plain file name"):
        copies.copy_layer_out(tower.share, TOP, tmp_path / "layer", backing)
    assert not (tmp_path / "layer").exists()


def _random_step(layers: Layers, top: str, chance: random.Random, size: int) -> None:
    """One thing a guest does: data, the same data again, zeros, TRIM; anywhere, also in parts of clusters."""
    at, length = 512 * chance.randrange(size // 512), 512 * chance.choice([1, 8, 127, 128, 200, 700])
    length = min(length, size - at)
    kind = chance.choice(["write", "write", "same", "zero", "discard"])
    if kind == "write":
        layers.write(top, at, length, chance.randrange(1, 9))
    elif kind == "zero":
        layers.zero(top, at, length)
    elif kind == "discard":
        layers.discard(top, at, length)
    else:
        (layers.share / "again").write_bytes(layers.content[top][at : at + length])
        subprocess.run(
            ["qemu-io", "-f", "qcow2", "-c", f"write -s again {at} {length}", top],
            cwd=layers.share, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip


def _differing(old: bytes, new: bytes) -> set[int]:
    """Numbers of the clusters that differ; behind the end of the older disk everything is zero."""
    cluster, padded = 64 * KIB, old.ljust(len(new), b"\0")
    return {at // cluster for at in range(0, len(new), cluster) if padded[at : at + cluster] != new[at : at + cluster]}


@pytest.mark.parametrize("seed", range(12))
def test_an_increment_over_several_files_holds_what_differs_and_nothing_else(layers: Layers, tmp_path: Path, seed: int) -> None:
    """A chain of backups made of a history: each one's clusters are those that differ, and it reads as the disk did."""
    chance, size = random.Random(seed), 4 * MIB
    layers.base("base", chance.choice(["raw", "qcow2"]), size)
    layers.write("base", 0, 3 * MIB, 0x11)
    outside, number = tmp_path / "outside", 0
    outside.mkdir()
    top, base, parent = "base", Source("base", layers.formats["base"], 1), "backup-0"
    copies.copy_out(base, layers.share, outside / parent, "qcow2", True)
    for backup in range(1, 4):
        above = top
        for _ in range(chance.randrange(1, 4)):
            number += 1
            size += chance.choice([0, 0, MIB, 192 * KIB])
            layers.overlay(f"overlay-{number}", top, size, options=chance.choice(["", "cluster_size=4096", "cluster_size=2M"]))
            top = f"overlay-{number}"
            for _ in range(chance.randrange(6)):
                _random_step(layers, top, chance, size)
        name = f"backup-{backup}"
        copies.copy_layer_out(layers.share, Source(top, "qcow2", 0), outside / name, parent, above)
        assert qcow2.read(outside, name) == Image(name, "qcow2", size, parent, "qcow2")
        assert Layers(outside).read(name, "qcow2") == layers.content[top]
        held = {
            cluster
            for each in extents.extents(outside, name, "qcow2", backup + 1)
            if each.depth == 0 and each.present
            for cluster in range(each.start // (64 * KIB), -(-(each.start + each.length) // (64 * KIB)))
        }
        assert held == _differing(layers.content[above], layers.content[top])
        assert not list(outside.glob("*.apart"))
        parent = name


@pytest.mark.parametrize("overlays", [1, 3])
def test_an_increment_is_as_large_as_the_difference_compressed(layers: Layers, tmp_path: Path, overlays: int) -> None:
    """The same 8 MiB are written in every overlay; half of what differs at the end can be compressed."""
    layers.base("base", "qcow2", 64 * MIB)
    layers.write("base", 0, 32 * MIB, 0x11)
    (layers.share / "noise").write_bytes(random.Random(1).randbytes(4 * MIB))
    top = "base"
    for number in range(overlays):
        layers.overlay(f"overlay-{number}", top)
        top = f"overlay-{number}"
        layers.write(top, 0, 4 * MIB, 0x21 + number)
        words = ["qemu-io", "-f", "qcow2", "-c", "write -s noise 4M 4M", "-c", "write -P 17 16M 8M", top]
        subprocess.run(words, cwd=layers.share, check=True, stdout=subprocess.DEVNULL)
    copies.copy_layer_out(layers.share, Source(top, "qcow2", 0), tmp_path / "increment", "full", "base")
    tables = 6 * 64 * KIB  # header, reference counts, two levels of tables
    assert 4 * MIB < (tmp_path / "increment").stat().st_size < 4 * MIB + 256 * KIB + tables


def test_an_increment_is_made_below_a_file_a_guest_writes(tower: Layers, tmp_path: Path) -> None:
    tower.overlay("active", "top")
    copies.copy_out(Source("base", tower.formats["base"], 1), tower.share, tmp_path / "full", "qcow2", True)
    with opened(tower.share, "active"):
        copies.copy_layer_out(tower.share, TOP, tmp_path / "layer", "full", "base")
    assert Layers(tmp_path).read("layer", "qcow2") == tower.content["top"]


def test_growth_is_not_stored(layers: Layers, tmp_path: Path) -> None:
    layers.base("base", "qcow2", MIB)
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top", "4T"]
    for each in (words, ["qemu-io", "-f", "qcow2", "-c", "write 3T 64k", "top"]):
        subprocess.run(each, cwd=layers.share, check=True, stdout=subprocess.DEVNULL)
    copies.copy_layer_out(layers.share, Source("top", "qcow2", 0), tmp_path / "increment", "full")
    assert (tmp_path / "increment").stat().st_blocks * 512 < MIB


def test_an_increment_above_a_file_that_is_not_behind_is_refused(tower: Layers, tmp_path: Path) -> None:
    for above in ("top", "elsewhere"):
        with pytest.raises(StepFailed, match=f"no layer above {above}"):
            copies.copy_layer_out(tower.share, TOP, tmp_path / "layer", "full", above)
    assert list(tmp_path.glob("layer*")) == []


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
@pytest.mark.parametrize("compress", [False, True])
def test_a_full_copy_and_a_layer_come_back_as_the_volume_they_were(
    tower: Layers, tmp_path: Path, format_: str, compress: bool
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    copies.copy_out(Source("one", "qcow2", 2), tower.share, outside / "full", "qcow2", compress)
    qemu_img.pull(tower.share, "top", "one", "qcow2", 4)
    copies.copy_layer_out(tower.share, TOP, outside / "increment", "full")
    source = Source("increment", "qcow2", 2, outside)
    copies.publish_copy(tower.share, source, Image(COPY, format_, 4 * MIB), "token", OTHER_VOLUME)
    assert tower.read(COPY, format_) == tower.content["top"]


@pytest.mark.parametrize("length", [1, 511, 513, MIB + 1])
def test_a_raw_file_of_any_length_comes_in_filled_up_to_a_sector(layers: Layers, tmp_path: Path, length: int) -> None:
    (tmp_path / "image").write_bytes(b"\x07" * length)
    assert imports.inspect_import(tmp_path / "image", "raw", 2 * MIB) == Image("image", "raw", length)
    source = Source("image", "raw", 1, tmp_path)
    expected = b"\x07" * length + b"\0" * (-length % 512)
    for name, format_ in ((COPY, "raw"), (overlay_name(OTHER_VOLUME, SNAPSHOT), "qcow2")):
        copies.publish_copy(layers.share, source, Image(name, format_, 2 * MIB), f"token-{format_}", OTHER_VOLUME)
        assert layers.read(name, format_) == expected.ljust(2 * MIB, b"\0")


def test_a_copy_out_of_a_file_a_guest_has_open_as_backing_file_is_possible(tower: Layers, tmp_path: Path) -> None:
    with opened(tower.share, "top"):
        assert files.is_locked(tower.share, "two")
        assert not files.is_written(tower.share, "two")
        copies.copy_out(Source("two", "qcow2", 3), tower.share, tmp_path / "out", "raw", False)
    assert (tmp_path / "out").read_bytes() == tower.content["two"]

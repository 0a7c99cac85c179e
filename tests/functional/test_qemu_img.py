"""Every verb that makes or changes an image, on real files: content compared byte by byte, modes, refusals, repeats."""

import os
import stat
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stillframe.chain.image import Image
from stillframe.chain.names import base_name, overlay_name, temporary_name
from stillframe.errors import BadImage, ChainConflict, HostCommandFailed, StepFailed
from stillframe.host import empty_overlay, extents, files, image_command, publish, qcow2, qemu_img, run
from stillframe.host.extents import Extent
from tests.support import qemu_io
from tests.support.layers import KIB, MIB, Layers, opened
from tests.support.leaks import leaked_clusters
from tests.support.let_in import let_in
from tests.unit.builders import OTHER_SNAPSHOT, SNAPSHOT, VOLUME

BASE, OVERLAY = base_name(VOLUME), overlay_name(VOLUME, SNAPSHOT)
FORMATS = pytest.mark.parametrize("format_", ["raw", "qcow2"])


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    return Layers(tmp_path)


@pytest.fixture(params=["raw", "qcow2"])
def tower(request: pytest.FixtureRequest, tmp_path: Path) -> Layers:
    """base <- one <- two <- top, the base in either format."""
    made = Layers(tmp_path)
    made.tower(request.param)
    return made


def slow_qemu_img(directory: Path) -> str:
    """Makes a qemu-img whose every read and write of a file takes 20 ms longer; returns the PATH that finds it."""
    script = directory / "qemu-img"
    calls = "pread64,preadv,pwrite64,pwritev"
    delayed = f"strace -f -o /dev/null -e trace={calls} -e inject={calls}:delay_enter=20000"
    script.write_text(f'#!/bin/sh\nexec {delayed} /usr/bin/qemu-img "$@"\n')
    script.chmod(0o755)
    return f"{directory}:/usr/bin:/bin"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@FORMATS
def test_a_base_is_published_empty_of_the_exact_size_and_sparse(tmp_path: Path, format_: str) -> None:
    image = Image(BASE, format_, 64 * MIB + 512)
    publish.publish_base(tmp_path, image, "token", VOLUME)
    assert qcow2.read_as(tmp_path, BASE, format_) == image
    assert os.listdir(tmp_path) == [BASE]
    assert files.allocated(tmp_path, BASE) < MIB
    assert not any(Layers(tmp_path).read(BASE, format_))


@FORMATS
def test_publishing_a_base_may_be_repeated_and_never_touches_another_file(tmp_path: Path, format_: str) -> None:
    image = Image(BASE, format_, MIB)
    publish.publish_base(tmp_path, image, "token", VOLUME)
    inode = (tmp_path / BASE).stat().st_ino
    publish.publish_base(tmp_path, image, "token", VOLUME)
    with pytest.raises(StepFailed, match="another file"):
        publish.publish_base(tmp_path, Image(BASE, format_, 2 * MIB), "token", VOLUME)
    assert (tmp_path / BASE).stat().st_ino == inode
    assert os.listdir(tmp_path) == [BASE]


@FORMATS
def test_an_overlay_is_published_on_either_format_and_reads_as_what_backs_it(layers: Layers, format_: str) -> None:
    layers.base(BASE, format_, MIB)
    layers.write(BASE, 0, 128 * KIB, 7)
    image = Image(OVERLAY, "qcow2", 2 * MIB, BASE, format_)
    for _ in range(2):
        publish.publish_overlay(layers.share, image, "token", VOLUME)
    assert qcow2.read(layers.share, OVERLAY) == image
    assert layers.read(OVERLAY, "qcow2") == layers.content[BASE].ljust(2 * MIB, b"\0")
    assert set(os.listdir(layers.share)) == {BASE, OVERLAY}


@FORMATS
@pytest.mark.parametrize("size", [512, MIB, (1 << 29) + 512, 3 << 40, 5 << 40, 1 << 50])
def test_an_empty_overlay_is_what_qemu_img_makes_byte_by_byte(tmp_path: Path, format_: str, size: int) -> None:
    for backing in ("b", BASE, "long" * 60):
        wanted = ["-f", "qcow2", "-F", format_, "-b", backing, "theirs", str(size)]
        subprocess.run(["qemu-img", "create", "-q", "-u", *wanted], cwd=tmp_path, check=True)
        (tmp_path / "ours").write_bytes(b"")
        empty_overlay.write(tmp_path, "ours", *empty_overlay.pieces(Image("ours", "qcow2", size, backing, format_)))
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
        (tmp_path / "theirs").unlink()


def test_an_overlay_on_a_file_a_guest_has_open_is_published(layers: Layers) -> None:
    layers.base(BASE, "qcow2", MIB)
    with opened(layers.share, BASE):
        publish.publish_overlay(layers.share, Image(OVERLAY, "qcow2", MIB, BASE, "qcow2"), "token", VOLUME)
    assert qcow2.read(layers.share, OVERLAY).backing == BASE


def test_what_an_interrupted_try_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / temporary_name(VOLUME, "token")).write_bytes(b"half")
    publish.publish_base(tmp_path, Image(BASE, "qcow2", MIB), "token", VOLUME)
    assert os.listdir(tmp_path) == [BASE]


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_every_new_file_has_mode_0660_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        publish.publish_base(tmp_path, Image(BASE, "qcow2", MIB), "token", VOLUME)
        publish.publish_overlay(tmp_path, Image(OVERLAY, "qcow2", MIB, BASE, "qcow2"), "token", VOLUME)
    finally:
        os.umask(old)
    assert {mode(path) for path in tmp_path.iterdir()} == {0o660}


def test_overlays_have_the_rights_of_an_adopted_disk_and_not_of_a_file_that_libvirt_took(layers: Layers) -> None:
    """libvirt gives what a guest has open to QEMU's user and group, and back to root afterwards."""
    other = overlay_name(VOLUME, "4d4d4d4d-4444-4444-8444-444444444444")
    for base, wanted in ((BASE, 0o660), ("disk.qcow2", 0o600)):
        layers.base(base, "qcow2", MIB)
        os.chown(layers.share / base, 65534, 65534)
        publish.publish_overlay(layers.share, Image(OVERLAY, "qcow2", MIB, base, "qcow2"), "token", VOLUME)
        publish.publish_overlay(layers.share, Image(other, "qcow2", MIB, OVERLAY, "qcow2"), "token", VOLUME)
        assert [mode(layers.share / name) for name in (OVERLAY, other)] == [wanted] * 2
        for name in (OVERLAY, other):
            (layers.share / name).unlink()


@pytest.mark.parametrize(("top", "base"), [("top", "two"), ("top", "one"), ("top", "base"), ("two", "base"), ("one", "base")])
def test_a_commit_moves_the_content_down_and_changes_nothing_else(tower: Layers, top: str, base: str) -> None:
    names = ["base", "one", "two", "top"]
    between = names[names.index(base) : names.index(top)]
    tower.content.update(dict.fromkeys(between, tower.content[top]))
    for _ in range(2):
        qemu_img.commit(tower.share, top, base, 4)
        # A file between base and top reads through the changed base: its own name is not to be used any more.
        tower.check(*[name for name in names if name not in between[1:]])
        tower.check_clean()


@FORMATS
def test_a_commit_grows_the_base(layers: Layers, format_: str) -> None:
    layers.base("base", format_, MIB)
    layers.overlay("top", "base", 3 * MIB)
    layers.write("top", 2 * MIB, 64 * KIB, 5)
    layers.content["base"] = layers.content["top"]
    qemu_img.commit(layers.share, "top", "base", 2)
    layers.check()
    assert qcow2.read_as(layers.share, "base", format_).size == 3 * MIB


@pytest.mark.parametrize("length", [MIB + 100, MIB + 512, 3 * MIB - 1])
@pytest.mark.parametrize("to_the_end", [False, True])
def test_a_raw_base_without_whole_sectors_grows_to_what_is_written(tmp_path: Path, length: int, to_the_end: bool) -> None:
    """QEMU shows a guest whole sectors. The file itself grows only by what lies in the last one, and never loses a byte."""
    base, top = base_name(VOLUME), overlay_name(VOLUME, SNAPSHOT)
    before = os.urandom(length)
    (tmp_path / base).write_bytes(before)
    below = qcow2.read_as(tmp_path, base, "raw")
    publish.publish_overlay(tmp_path, Image(top, "qcow2", below.disk_size, base, "raw"), "token", VOLUME)
    written = 512 if to_the_end else 0
    if to_the_end:
        qemu_io.dead_writer(tmp_path, top, f"write -P 7 {below.disk_size - 512} 512", "flush")
    qemu_img.commit(tmp_path, top, base, 2)
    expected = before[: below.disk_size - written] + b"\x07" * written
    assert (tmp_path / base).read_bytes() == expected


@pytest.mark.parametrize("base", ["top", "other", "missing", "json:{}", "../base"])
def test_nothing_is_committed_into_a_file_that_is_not_behind_the_top(tower: Layers, base: str) -> None:
    tower.base("other", "qcow2", 4 * MIB)
    with pytest.raises(StepFailed, match="is not behind top"):
        qemu_img.commit(tower.share, "top", base, 4)
    tower.check()


@pytest.mark.parametrize(("name", "backing"), [("top", "one"), ("top", "base"), ("top", None), ("one", None), ("two", "one")])
def test_a_pull_changes_what_backs_a_file_and_no_content(tower: Layers, name: str, backing: str | None) -> None:
    format_ = tower.formats[backing] if backing else None
    for _ in range(2):
        qemu_img.pull(tower.share, name, backing, format_, 4)
        assert qcow2.read(tower.share, name) == Image(name, "qcow2", 4 * MIB, backing, format_)
        tower.check()
        tower.check_clean()


def test_a_file_reads_the_same_after_a_full_pull(tower: Layers) -> None:
    qemu_img.pull(tower.share, "top", None, None, 4)
    for name in ("base", "one", "two"):
        (tower.share / name).unlink()
    tower.check("top")


@pytest.mark.parametrize(("backing", "format_"), [("top", "qcow2"), ("other", "qcow2"), ("one", "raw"), ("json:{}", "qcow2")])
def test_nothing_is_pulled_down_to_what_is_not_behind(tower: Layers, backing: str, format_: str) -> None:
    tower.base("other", "qcow2", 4 * MIB)
    with pytest.raises(StepFailed, match="is not behind top"):
        qemu_img.pull(tower.share, "top", backing, format_, 4)
    tower.check()


def test_pointing_to_a_base_that_took_everything_changes_no_content(tower: Layers) -> None:
    qemu_img.commit(tower.share, "two", "base", 4)
    for _ in range(2):
        qemu_img.repoint(tower.share, "top", "base", tower.formats["base"])
        tower.check("top")
    (tower.share / "one").unlink()
    (tower.share / "two").unlink()
    tower.check("top")
    tower.check_clean("top")


@pytest.mark.parametrize("backing", ["json:{}", "/etc/passwd", "a/b", "-x", "", "nbd:x", "a\nb"])
def test_a_header_is_never_pointed_at_what_is_no_plain_file_name(tower: Layers, backing: str) -> None:
    with pytest.raises(BadImage, match="plain file name"):
        qemu_img.repoint(tower.share, "top", backing, "qcow2")
    tower.check()


@FORMATS
def test_a_disk_grows_with_zeros_and_is_never_made_smaller(layers: Layers, format_: str) -> None:
    layers.base("base", format_, MIB)
    layers.write("base", 0, MIB, 3)
    layers.content["base"] = layers.content["base"].ljust(5 * MIB, b"\0")
    for _ in range(2):
        qemu_img.resize(layers.share, "base", format_, 5 * MIB)
        layers.check()
    with pytest.raises(ChainConflict, match="cut off"):
        qemu_img.resize(layers.share, "base", format_, 5 * MIB - 512)
    layers.check()


def test_an_overlay_shorter_than_what_backs_it_is_not_grown_where_a_crash_could_show_old_data(layers: Layers) -> None:
    layers.base("base", "raw", 2 * MIB)
    layers.write("base", 0, 2 * MIB, 3)
    layers.overlay("top", "base", MIB)
    with pytest.raises(ChainConflict, match="shorter than base"):
        qemu_img.resize(layers.share, "top", "qcow2", 4 * MIB)
    layers.check()
    qemu_img.resize(layers.share, "top", "qcow2", MIB)
    qemu_img.grow(layers.share, "top", "qcow2", 4 * MIB)  # nobody reads it yet
    assert layers.read("top") == b"\3" * MIB + b"\0" * 3 * MIB


def test_extents_say_which_layer_each_stretch_is_read_from(layers: Layers) -> None:
    layers.base("base", "qcow2", 4 * MIB)
    layers.write("base", 0, 2 * MIB, 1)
    layers.overlay("top", "base")
    layers.write("top", MIB, 64 * KIB, 2)
    layers.zero("top", 0, 128 * KIB)
    found = extents.extents(layers.share, "top", "qcow2", 2)
    assert found == (
        Extent(0, 128 * KIB, 0, data=False, zero=True, present=True),
        Extent(128 * KIB, MIB - 128 * KIB, 1, data=True, zero=False, present=True),
        Extent(MIB, 64 * KIB, 0, data=True, zero=False, present=True),
        Extent(MIB + 64 * KIB, MIB - 64 * KIB, 1, data=True, zero=False, present=True),
        Extent(2 * MIB, 2 * MIB, 1, data=False, zero=True, present=False),
    )


def test_extents_of_a_raw_file_and_of_an_empty_disk(layers: Layers) -> None:
    layers.base("raw", "raw", 2 * MIB)
    layers.write("raw", 0, MIB, 1)
    assert extents.extents(layers.share, "raw", "raw", 1)[0] == Extent(0, MIB, 0, data=True, zero=False, present=True)
    layers.base("empty", "qcow2", 0)
    assert extents.extents(layers.share, "empty", "qcow2", 1) == ()


def test_a_map_larger_than_one_pipe_buffer_comes_whole(layers: Layers) -> None:
    layers.base("base", "qcow2", 8 * MIB, "cluster_size=4096")
    commands = [word for at in range(0, 8 * MIB, 16 * KIB) for word in ("-c", f"write -P 1 {at} 4096")]
    words = ["qemu-io", "-t", "unsafe", "-f", "qcow2", *commands, "base"]
    subprocess.run(words, cwd=layers.share, check=True, stdout=subprocess.DEVNULL)
    found = extents.extents(layers.share, "base", "qcow2", 1)
    assert len(found) == 2 * 512
    assert sum(each.length for each in found) == 8 * MIB
    assert sum(each.length for each in found if each.present) == 2 * MIB


def test_extents_of_a_file_a_guest_writes_need_shared(layers: Layers) -> None:
    layers.base("base", "qcow2", MIB)
    layers.write("base", 0, 64 * KIB, 1)
    with opened(layers.share, "base"):
        with pytest.raises(HostCommandFailed, match="lock"):
            extents.extents(layers.share, "base", "qcow2", 1)
        found = extents.extents(layers.share, "base", "qcow2", 1, shared=True)
        assert [(each.start, each.length) for each in found if each.present] == [(0, 64 * KIB)]


def test_a_file_a_guest_has_open_is_not_changed(tower: Layers) -> None:
    with opened(tower.share, "top"):
        verbs: list[Callable[[], None]] = [
            lambda: qemu_img.commit(tower.share, "top", "two", 4),
            lambda: qemu_img.commit(tower.share, "two", "one", 4),
            lambda: qemu_img.pull(tower.share, "top", None, None, 4),
            lambda: qemu_img.repoint(tower.share, "top", "one", "qcow2"),
            lambda: qemu_img.resize(tower.share, "top", "qcow2", 8 * MIB),
            lambda: qemu_img.repair_all(tower.share, "top", "qcow2"),
            lambda: qemu_img.repair_leaks(tower.share, "top", "qcow2"),
        ]
        for verb in verbs:
            with pytest.raises(HostCommandFailed, match="lock"):
                verb()
    tower.check()


def damage(path: Path) -> None:
    """Says of the last cluster in use that nothing uses it: corruption, because the next write would take it again."""
    qemu_io.count(path, path.stat().st_size // (64 * KIB) - 1, 0)


def leak(path: Path) -> None:
    """Appends a cluster that is counted as used and that nothing refers to."""
    with path.open("r+b") as file:
        clusters = -(-path.stat().st_size // (64 * KIB))
        file.truncate((clusters + 1) * 64 * KIB)
    qemu_io.count(path, clusters, 1)


def test_leaks_are_counted_and_freed(tower: Layers) -> None:
    assert leaked_clusters(tower.share, "top", "qcow2") == 0
    leak(tower.share / "top")
    qemu_img.check(tower.share, "top", "qcow2")
    assert leaked_clusters(tower.share, "top", "qcow2") == 1
    qemu_img.repair_leaks(tower.share, "top", "qcow2")
    assert leaked_clusters(tower.share, "top", "qcow2") == 0
    tower.check()


def test_damage_is_told_and_repaired_only_when_asked(tower: Layers) -> None:
    damage(tower.share / "top")
    for look in (qemu_img.check, leaked_clusters, qemu_img.repair_leaks):
        with pytest.raises(BadImage, match="top is damaged"):
            look(tower.share, "top", "qcow2")
    qemu_img.repair_all(tower.share, "top", "qcow2")
    qemu_img.check(tower.share, "top", "qcow2")
    tower.check()


def test_a_raw_file_has_nothing_to_check_or_repair(layers: Layers) -> None:
    layers.base("raw", "raw", MIB)
    qemu_img.check(layers.share, "raw", "raw")
    qemu_img.repair_all(layers.share, "raw", "raw")
    qemu_img.repair_leaks(layers.share, "raw", "raw")
    assert leaked_clusters(layers.share, "raw", "raw") == 0


def test_a_check_opens_no_other_file(tower: Layers) -> None:
    """What backs a file may be missing or in use; a layer is checked by itself."""
    (tower.share / "two").unlink()
    qemu_img.check(tower.share, "top", "qcow2")


def test_a_deep_chain_of_a_large_disk_can_be_read_and_merged(layers: Layers) -> None:
    """Finding 12: with 1 GiB of address space this fails from 30 layers of a 1 TiB disk on."""
    size, depth = 1 << 40, 40
    publish.publish_base(layers.share, Image("layer-0", "qcow2", size), "token", VOLUME)
    for number in range(1, depth):
        image = Image(f"layer-{number}", "qcow2", size, f"layer-{number - 1}", "qcow2")
        publish.publish_overlay(layers.share, image, "token", VOLUME)
        words = ["qemu-io", "-f", "qcow2", "-c", f"write -P {number} {number}G 4k", image.name]
        subprocess.run(words, cwd=layers.share, check=True, stdout=subprocess.DEVNULL)
    found = extents.extents(layers.share, f"layer-{depth - 1}", "qcow2", depth)
    assert {each.depth for each in found if each.data} == set(range(depth - 1))
    qemu_img.commit(layers.share, f"layer-{depth - 1}", "layer-0", depth)
    merged = extents.extents(layers.share, "layer-0", "qcow2", 1)
    assert [each.start for each in merged if each.data] == [number << 30 for number in range(1, depth)]


def test_a_chain_is_read_from_its_active_file_down(layers: Layers) -> None:
    other = overlay_name(VOLUME, OTHER_SNAPSHOT)
    layers.base(BASE, "raw", MIB)
    assert qemu_img.read_chain(layers.share, VOLUME, BASE, "raw").images == (Image(BASE, "raw", MIB),)
    layers.overlay(other, BASE)
    layers.overlay(OVERLAY, other)
    found = qemu_img.read_chain(layers.share, VOLUME, OVERLAY)
    assert [image.name for image in found.images] == [BASE, other, OVERLAY]
    assert [image.format for image in found.images] == ["raw", "qcow2", "qcow2"]


def test_half_the_address_space_suffices_on_a_slow_share(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request that waits has a thread of its own; 30 of them with 8 MiB of stack and an arena each are too much."""
    layers.base("base", "qcow2", 16 * MIB)
    layers.overlay("top", "base")
    layers.write("top", 0, 16 * MIB, 2)
    half = {depth: replace(image_command.limits(depth), address_space=512 * MIB) for depth in (1, 2, 3)}
    monkeypatch.setattr(qemu_img, "limits", half.__getitem__)
    programs = layers.share / "programs"
    programs.mkdir()
    monkeypatch.setitem(run.ENVIRONMENT, "PATH", slow_qemu_img(programs))
    let_in(monkeypatch, programs)
    qemu_img.commit(layers.share, "top", "base", 2)
    layers.content["base"] = layers.content["top"]
    layers.check()

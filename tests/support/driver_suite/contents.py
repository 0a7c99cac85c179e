"""Making, copying, merging: what is read afterwards, byte by byte, and what a repeat does."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.errors import ChainConflict, StepFailed
from stillframe.host.copies import Source
from tests.support.driver_suite.bench import MIB, Bench, everywhere, refused, with_chains, with_native_snapshots
from tests.support.oracle import BLOCK, GIB, Disk

CLUSTER = 1 << 16


@everywhere
def an_empty_file_is_made_and_a_repeat_changes_nothing(bench: Bench) -> None:
    for format_ in bench.formats:
        with bench.volume(format_) as volume:
            image = Image(volume.base, format_, GIB)
            inode = volume.path(volume.base).stat().st_ino
            token = volume.token()
            for _ in range(2):
                volume.share.create(volume.id, image, token)
            assert volume.path(volume.base).stat().st_ino == inode
            assert volume.share.image(volume.base, format_) == image
            assert volume.share.images(volume.id, format_) == {volume.base: image}
            assert volume.share.allocated(volume.base) <= MIB  # on XFS qemu-img asks for extents of that size
            volume.check()


@everywhere
def another_file_of_that_name_is_never_replaced(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, 2, 7))
        with refused(StepFailed, "exists already"):
            volume.share.create(volume.id, volume.image(volume.base, 2), volume.token())
        with refused(StepFailed, "exists already"):
            source = volume.source(volume.base)
            volume.share.copy(volume.id, source, volume.image(volume.base, 2), volume.token())
        volume.check()


@with_chains
def an_overlay_is_empty_reads_as_its_backing_file_and_may_be_larger(bench: Bench) -> None:
    for format_ in ("qcow2", "raw"):
        with bench.volume(format_) as volume:
            volume.write(volume.base, (0, 3, 5), (9, 1, 6))
            image = Image(volume.new_name(), "qcow2", 2 * GIB, volume.base, format_)
            token = volume.token()
            for _ in range(2):
                volume.share.create_overlay(volume.id, image, token)
            volume.known(image.name, volume.disks[volume.base].grown(2))
            assert volume.share.image(image.name, "qcow2") == image
            assert not volume.share.holds_data(image.name)
            assert volume.share.dependants(volume.base) == [image.name]
            volume.check()
            volume.write(image.name, (0, 1, 0), (18, 2, 8))
            assert volume.share.holds_data(image.name)
            volume.check()


@with_chains
def a_copy_holds_all_that_is_read_and_needs_nothing_of_its_source(bench: Bench) -> None:
    for format_ in ("qcow2", "raw"):
        for made in ("qcow2", "raw"):
            with bench.volume(format_) as volume:
                volume.write(volume.base, (0, 4, 5), (8, 2, 6))
                top = volume.overlay(volume.base, (1, 2, 0), (9, 1, 9))
                image = Image(volume.new_name(), made, 2 * GIB)
                token = volume.token()
                for _ in range(2):
                    volume.share.copy(volume.id, Source(top, "qcow2", 0), image, token)
                volume.known(image.name, volume.disks[top].grown(2), made)
                volume.check()
                volume.share.remove(volume.id, top)
                volume.share.remove(volume.id, volume.base)
                volume.gone(top, volume.base)
                assert volume.layers(image.name) == [image.name]
                volume.check()


@with_chains
def a_copy_that_would_be_too_small_is_refused_before_it_begins(bench: Bench) -> None:
    with bench.volume() as volume:
        top = volume.overlay(volume.base, gib=2)
        with refused(StepFailed, "does not fit"):
            volume.share.copy(volume.id, Source(top, "qcow2", 0), Image(volume.new_name(), "qcow2", GIB), volume.token())
        volume.check()


@with_chains
def a_copy_onto_a_backing_file_reads_nothing_of_that_file(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, 4, 5), (8, 2, 6))
        source = volume.overlay(volume.base, (0, 1, 0), (4, 1, 3))
        below = volume.overlay(volume.base, (0, 8, 7), (10, 2, 8), gib=2)
        image = Image(volume.new_name(), "qcow2", 2 * GIB, below, "qcow2")
        volume.share.copy(volume.id, Source(source, "qcow2", 0), image, volume.token())
        volume.known(image.name, volume.disks[source].grown(2))
        assert volume.share.image(image.name, "qcow2") == image
        volume.check()


@everywhere
def copies_outside_the_share_read_the_same_and_may_be_repeated(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, 4, 5), (8, 2, 6))
        top = volume.second((1, 2, 0), (9, 1, 9))
        for format_, compress in (("raw", False), ("qcow2", False), ("qcow2", True)):
            target = bench.scratch / f"out-{format_}-{compress}"
            for _ in range(2):
                volume.share.copy_out(volume.source(top), target, format_, compress)
            volume.reads(target, format_, volume.disks[top])
        volume.check()


@with_chains
def a_layer_outside_the_share_holds_what_the_layer_holds_and_no_more(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, 4, 5), (8, 2, 6))
        top = volume.overlay(volume.base, (1, 2, 0), (9, 1, 9))
        below, target = bench.scratch / "below", bench.scratch / "layer"
        volume.share.copy_out(Source(volume.base, "qcow2", 0), below, "qcow2", False)
        for _ in range(2):
            volume.share.copy_layer_out(Source(top, "qcow2", 0), target, "below")
        volume.reads(target, "qcow2", volume.disks[top])
        layer = bench.reader.look(target, "qcow2")
        assert layer.backing == "below"
        assert layer.clusters <= {0, 1, 8192, 16383}, f"clusters the layer does not hold: {sorted(layer.clusters)}"


@with_chains
def a_commit_moves_content_down_and_nobody_above_sees_a_difference(bench: Bench) -> None:
    for format_ in ("qcow2", "raw"):
        with bench.volume(format_) as volume:
            volume.write(volume.base, (0, 4, 5), (8, 2, 6))
            middle = volume.overlay(volume.base, (1, 2, 0), (9, 1, 9), gib=2)
            top = volume.overlay(middle, (0, 1, 4), (19, 1, 3))
            for _ in range(2):
                volume.share.commit(volume.id, middle, volume.base)
            volume.disks[volume.base] = volume.disks[middle]
            volume.check()
            volume.share.repoint(volume.id, top, volume.base, format_)
            volume.share.remove(volume.id, middle)
            volume.gone(middle)
            volume.check()


@with_chains
def a_commit_may_go_down_over_several_files(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, 4, 5))
        first = volume.overlay(volume.base, (2, 4, 6))
        second = volume.overlay(first, (3, 1, 0), (8, 1, 7))
        volume.share.commit(volume.id, second, volume.base)
        volume.disks[volume.base] = volume.disks[second]
        # What lies between the two reads through a base that has changed: it is no file anybody may still need.
        for name in (second, first):
            volume.share.remove(volume.id, name)
        volume.gone(second, first)
        volume.check()


@with_chains
def a_file_is_stamped_anew_by_what_writes_to_it_but_not_by_its_commit(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, 4, 5))
        top = volume.overlay(volume.base, (2, 4, 6))
        stamp, below = volume.share.stamp(top), volume.share.stamp(volume.base)
        volume.share.commit(volume.id, top, volume.base)
        assert volume.share.stamp(top) == stamp
        assert volume.share.stamp(volume.base) != below
        volume.write(top, (3, 1, 7))
        assert volume.share.stamp(top) != stamp


@with_chains
def a_commit_that_would_change_what_another_file_reads_is_refused(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, 4, 5))
        first = volume.overlay(volume.base, (2, 4, 6))
        second = volume.overlay(first, (8, 1, 7))
        volume.overlay(volume.base, (0, 1, 8))
        for top in (first, second):
            with refused(ChainConflict, "would change what"):
                volume.share.commit(volume.id, top, volume.base)
        volume.check()


@with_chains
def a_commit_into_a_file_that_is_not_behind_is_refused(bench: Bench) -> None:
    with bench.volume() as volume:
        one, other = volume.overlay(volume.base, (0, 1, 1)), volume.overlay(volume.base, (0, 1, 2))
        with refused(StepFailed, "not backed by"):
            volume.share.commit(volume.id, one, other)
        volume.check()


@with_chains
def a_pull_moves_content_up_and_frees_the_file_below(bench: Bench) -> None:
    for format_ in ("qcow2", "raw"):
        with bench.volume(format_) as volume:
            volume.write(volume.base, (0, 4, 5), (8, 2, 6))
            first = volume.overlay(volume.base, (1, 2, 0), gib=2)
            second = volume.overlay(first, (0, 1, 4), (18, 1, 3))
            for _ in range(2):
                volume.share.pull(volume.id, second, volume.base, format_)
            assert volume.layers(second) == [second, volume.base]
            volume.check()
            for _ in range(2):
                volume.share.pull(volume.id, second, None, None)
            assert volume.layers(second) == [second]
            volume.check()


@with_chains
def a_linked_volume_is_pulled_down_to_the_file_of_the_other_volume(bench: Bench) -> None:
    with bench.volume() as volume, bench.volume() as linked:
        volume.write(volume.base, (0, 4, 5), (8, 2, 6))
        lower, top = linked.new_name(), linked.new_name()
        linked.share.create_overlay(linked.id, Image(lower, "qcow2", GIB, volume.base, "qcow2"), "1")
        linked.known(lower, volume.disks[volume.base])
        linked.write(lower, (1, 2, 0))
        linked.share.create_overlay(linked.id, Image(top, "qcow2", GIB, lower, "qcow2"), "2")
        linked.known(top, linked.disks[lower])
        for _ in range(2):
            linked.share.pull(linked.id, top, volume.base, "qcow2")
        assert linked.layers(top) == [top, volume.base]
        linked.share.remove(linked.id, lower)
        linked.gone(lower)
        linked.check()
        volume.check()


@with_chains
def a_pull_down_to_a_file_that_is_not_behind_is_refused(bench: Bench) -> None:
    with bench.volume() as volume:
        one, other = volume.overlay(volume.base, (0, 1, 1)), volume.overlay(volume.base, (0, 1, 2))
        with refused(StepFailed, "not behind"):
            volume.share.pull(volume.id, one, other, "qcow2")
        volume.check()


@with_chains
def a_rename_takes_a_free_name_only_and_never_that_of_a_backing_file(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, 1, 5))
        top = volume.overlay(volume.base, (1, 1, 6))
        with refused(ChainConflict, "is backed by it"):
            volume.share.rename(volume.id, volume.base, volume.new_name())
        with refused(FileExistsError):
            volume.share.rename(volume.id, top, volume.base)
        volume.check()
        name, disk = volume.new_name(), volume.disks.pop(top)
        for _ in range(2):
            volume.share.rename(volume.id, top, name)
        volume.known(name, disk)
        volume.check()


@everywhere
def a_file_grows_and_never_shrinks(bench: Bench) -> None:
    for format_ in bench.formats:
        with bench.volume(format_) as volume:
            volume.write(volume.base, (8, 2, 6))
            for _ in range(2):
                volume.share.resize(volume.id, volume.base, format_, 2 * GIB)
            volume.disks[volume.base] = volume.disks[volume.base].grown(2)
            volume.check()
            with refused(ChainConflict, "cut off"):
                volume.share.resize(volume.id, volume.base, format_, GIB)
            volume.check()


@with_chains
def a_leaked_cluster_is_given_back(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, 1, 5))
        _leak(volume.path(volume.base))
        for _ in range(2):
            volume.share.repair(volume.id, volume.base, "qcow2")
        volume.check()


def _leak(path: Path) -> None:
    """Counts a reference to a cluster that nothing refers to."""
    with path.open("r+b") as file:
        (table,) = struct.unpack_from(">Q", file.read(64), 48)
        file.seek(table)
        (block,) = struct.unpack(">Q", file.read(8))
        end = (path.stat().st_size + CLUSTER - 1) // CLUSTER
        file.truncate((end + 1) * CLUSTER)
        file.seek(block + 2 * end)
        file.write(struct.pack(">H", 1))


@with_chains
def the_weight_of_every_layer_is_what_a_reader_finds_in_it(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, 4, 5), (8, 2, 6))
        first = volume.overlay(volume.base, (2, 2, 7))
        top = volume.overlay(first, (0, 2, 0), (6, 2, 1))
        assert list(volume.share.visible(top, "qcow2")) == [2 * CLUSTER, CLUSTER, CLUSTER]
        assert list(volume.share.visible(first, "qcow2")) == [CLUSTER, 2 * CLUSTER]
        with bench.reader.held_open(volume.path(top), "qcow2"):
            assert list(volume.share.visible(top, "qcow2", shared=True)) == [2 * CLUSTER, CLUSTER, CLUSTER]


@everywhere
def documents_are_replaced_whole(bench: Bench) -> None:
    with bench.volume() as volume:
        for name in (names.info_name(volume.id), names.record_name(volume.id)):
            assert volume.share.read_document(name) == {}
            for document in ({"active": volume.base}, {"active": "é" * 9000}, {"a": [1, {"b": None}]}):
                for _ in range(2):
                    volume.share.write_document(name, document)
                assert volume.share.read_document(name) == document
                assert volume.path(name).stat().st_mode & 0o7777 == 0o660
            for _ in range(2):
                volume.share.write_document(name, {})
            assert volume.share.read_document(name) == {}
            assert name not in bench.names()


@everywhere
def a_file_is_taken_over_and_given_back(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, 1, 5))
        disk = volume.disks.pop(volume.base)
        other = f"from-elsewhere-{volume.id}"
        for _ in range(2):
            volume.share.unmanage_file(volume.id, volume.base, other)
        assert volume.share.files(volume.id) == []
        volume.reads(volume.path(other), volume.format, disk)
        for _ in range(2):
            volume.share.manage_file(volume.id, other, volume.base)
        volume.known(volume.base, disk, volume.format)
        volume.check()
        taken = volume.second()
        with refused(FileExistsError):
            volume.share.unmanage_file(volume.id, taken, volume.base)
        with refused(FileExistsError):
            volume.share.manage_file(volume.id, taken, volume.base)
        volume.check()


@with_chains
def a_volume_is_as_large_as_its_disk_and_no_larger(bench: Bench) -> None:
    """The first and the last byte of a disk that ends in the middle of nothing."""
    with bench.volume("raw") as volume:
        volume.write(volume.base, (9, 1, 255))
        assert volume.path(volume.base).stat().st_size == GIB
        copy = volume.known(volume.new_name(), Disk(1, volume.disks[volume.base].blocks))
        volume.share.copy(volume.id, Source(volume.base, "raw", 0), Image(copy, "qcow2", GIB), volume.token())
        volume.check()


@with_native_snapshots
def a_clone_reads_as_its_source_did_and_neither_sees_the_others_writes(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, 4, 5), (8, 2, 6))
        image, token = volume.image(gib=2), volume.token()
        for _ in range(2):
            volume.share.clone(volume.id, volume.base, image, token)
        volume.known(image.name, volume.disks[volume.base].grown(2), "raw")
        assert volume.share.image(image.name, "raw") == image
        volume.write(volume.base, (1, 1, 7))
        volume.write(image.name, (0, 1, 8), (18, 1, 9))
        volume.check()
        volume.share.remove(volume.id, volume.base)
        volume.gone(volume.base)
        volume.check()


@with_native_snapshots
def a_clone_of_a_file_that_is_being_written_holds_what_had_ended(bench: Bench) -> None:
    """A writer through the page cache, which has synced nothing."""
    with bench.volume() as volume:
        handle = os.open(volume.path(volume.base), os.O_WRONLY)
        try:
            names_of = []
            for number in range(1, 9):
                os.pwrite(handle, bytes([number]) * CLUSTER, 0)
                image = volume.image()
                volume.share.clone(volume.id, volume.base, image, volume.token())
                names_of.append(image.name)
        finally:
            os.close(handle)
        for number, name in enumerate(names_of, 1):
            with volume.path(name).open("rb") as file:
                assert file.read(CLUSTER) == bytes([number]) * CLUSTER, name
            os.unlink(volume.path(name))


@with_native_snapshots
def a_clone_takes_no_room_and_no_time_that_grows(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, 500, 5))
        before = volume.share.free()
        made = [volume.second() for _ in range(20)]
        # Blocks that are shared count for each file, and are there once.
        assert before - volume.share.free() < 4 * MIB
        for name in made:
            volume.share.remove(volume.id, name)
            volume.gone(name)
        volume.check()


@with_native_snapshots
def what_differs_between_two_files_is_stored_and_no_more(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, 8, 5), (100, 2, 6))
        earlier = volume.second()
        assert volume.share.differing(volume.base, earlier) == 0
        volume.write(volume.base, (1, 1, 9), (4, 1, 0), (200, 1, 3))
        assert 0 < volume.share.differing(volume.base, earlier) <= 8 * BLOCK
        below, target = bench.scratch / "below", bench.scratch / "layer"
        volume.share.copy_out(Source(earlier, "raw", 0), below, "qcow2", True)
        for _ in range(2):
            volume.share.copy_layer_out(Source(volume.base, "raw", 0), target, "below", earlier)
        volume.reads(target, "qcow2", volume.disks[volume.base])
        layer = bench.reader.look(target, "qcow2")
        assert layer.backing == "below" and len(layer.clusters) <= 3 * BLOCK // CLUSTER
        volume.check()


@with_native_snapshots
def nothing_is_based_on_anything(bench: Bench) -> None:
    with bench.volume() as volume:
        share, other = volume.share, volume.second((0, 1, 5))
        chained: list[Callable[[], object]] = [
            lambda: share.create(volume.id, Image(volume.new_name(), "qcow2", GIB), "1"),
            lambda: share.create_overlay(volume.id, Image(volume.new_name(), "qcow2", GIB, volume.base, "raw"), "1"),
            lambda: share.commit(volume.id, other, volume.base),
            lambda: share.pull(volume.id, other, None, None),
            lambda: share.repoint(volume.id, other, volume.base, "raw"),
            lambda: share.repair(volume.id, other, "raw"),
            lambda: share.holds_data(other),
        ]
        for make in chained:
            with refused(StepFailed, "holds no chains"):
                make()
        assert share.dependants(volume.base) == []
        volume.check()

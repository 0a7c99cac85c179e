"""A share without free space: what exists stays correct, what was begun leaves nothing, and deleting works."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.errors import ShareUnavailable
from stillframe.host.copies import Source
from tests.support.driver_suite.bench import MIB, Bench, Volume, refused, when_small
from tests.support.oracle import BLOCK, GIB

HALF = 20 * MIB // BLOCK  # blocks of a volume that fits once and not twice


@contextmanager
def _filled(bench: Bench, volume: Volume, left: int) -> Iterator[None]:
    """Takes all room but ``left`` bytes."""
    filler = volume.path(f"filler-{volume.id}")
    assert bench.share().total() <= 200 * MIB, f"{bench.path} is too large to be filled"
    handle = os.open(filler, os.O_WRONLY | os.O_CREAT, 0o660)
    for piece in (MIB, 64 << 10, 4 << 10):
        with suppress(OSError):
            while True:
                os.write(handle, bytes(piece))
    os.fsync(handle)
    os.close(handle)
    os.truncate(filler, max(0, filler.stat().st_size - left))
    try:
        yield
    finally:
        filler.unlink()


@when_small
def making_anything_on_a_full_share_is_unavailable_and_leaves_nothing(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, HALF, 5))
        top = volume.overlay(volume.base, (0, 1, 6))
        before = bench.names()
        volume.share.copy_out(Source(top, "qcow2", 0), bench.scratch / "outside", "qcow2", False)
        sources = (Source(top, "qcow2", 0), Source("outside", "qcow2", 0, bench.scratch))  # the second is not weighed before
        for left in (0, 4 * MIB):
            with _filled(bench, volume, left):
                token = volume.token()
                for source in sources:
                    with refused(ShareUnavailable):
                        volume.share.copy(volume.id, source, Image(volume.new_name(), "qcow2", GIB), token)
                volume.share.remove_temporary(volume.id, token)
                if not left:
                    with refused(ShareUnavailable):
                        volume.share.create(volume.id, Image(volume.new_name(), "qcow2", GIB), token)
                    with refused(ShareUnavailable):
                        image = Image(volume.new_name(), "qcow2", GIB, top, "qcow2")
                        volume.share.create_overlay(volume.id, image, token)
                    volume.share.remove_temporary(volume.id, token)
        assert bench.names() == before
        volume.check()


@when_small
def a_merge_that_finds_no_room_leaves_everything_readable_and_is_ended_later(bench: Bench) -> None:
    for pull in (False, True):
        with bench.volume() as volume:
            volume.write(volume.base, (0, 4, 5), (6, HALF if pull else 2, 7))
            top = volume.overlay(volume.base, (2, 2 if pull else HALF, 6))

            def merge(top: str = top, volume: Volume = volume, pull: bool = pull) -> None:
                if pull:
                    volume.share.pull(volume.id, top, None, None)
                else:
                    volume.share.commit(volume.id, top, volume.base)

            with _filled(bench, volume, 2 * MIB):
                with refused(ShareUnavailable):
                    merge()
                # A commit leaves parts of the top's content in the base, which nobody but the top reads.
                volume.reads(volume.path(top), "qcow2", volume.disks[top])
            if not pull:
                volume.share.repair(volume.id, volume.base, "qcow2")
            merge()
            volume.disks[volume.base] = volume.disks[volume.base] if pull else volume.disks[top]
            volume.check()


@when_small
def a_document_on_a_full_share_stays_what_it_was(bench: Bench) -> None:
    with bench.volume() as volume:
        name = names.record_name(volume.id)
        volume.share.write_document(name, {"active": "x"})
        with _filled(bench, volume, 0):
            with refused(ShareUnavailable):
                volume.share.write_document(name, {"active": "y" * 30000})
            assert volume.share.read_document(name) == {"active": "x"}
        volume.share.write_document(name, {"active": "z"})
        assert volume.share.read_document(name) == {"active": "z"}


@when_small
def deleting_needs_no_room(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, HALF, 5))
        top = volume.overlay(volume.base, (0, 1, 6))
        with _filled(bench, volume, 0):
            volume.share.remove(volume.id, top)
            volume.gone(top)
            volume.share.write_document(names.info_name(volume.id), {})
        volume.check()

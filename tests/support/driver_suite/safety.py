"""The marker, the share that is away, what crashes leave, files somebody has open, and what a kind of share says."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.errors import BadConfiguration, ChainConflict, ShareUnavailable
from stillframe.host import workdir
from stillframe.host.copies import Source
from stillframe.volumes.storage.drivers import directory, markers
from stillframe.volumes.storage.drivers.shares_config import Export
from tests.support.driver_suite.bench import (
    Bench,
    everywhere,
    expect_all_unavailable,
    refused,
    with_chains,
)
from tests.support.oracle import GIB

MARKER = markers.MARKER


@everywhere
def a_kind_says_which_shares_it_has(bench: Bench) -> None:
    listed = bench.scratch / "shares"
    listed.write_text(f"# shares\n\n{bench.export.export}\n")
    section = SimpleNamespace(
        share_dir=bench.export.export,
        nfs_shares_config=str(listed),
        nfs_mount_options=None,
        glusterfs_shares_config=str(listed),
        target_ip_address="192.0.2.1",
        target_prefix="iqn.2010-10.org.openstack:",
    )
    (found,) = bench.module.shares(section)
    assert found.export == bench.export.export
    if not bench.capabilities.here:
        listed.write_text(f"{bench.export.export} -o suid\n")
        with refused(BadConfiguration, "suid"):
            bench.module.shares(section)


@everywhere
def preparing_again_changes_nothing(bench: Bench) -> None:
    found, before = markers.prepare(bench.path), bench.names()
    for _ in range(2):
        assert bench.module.prepare(bench.export, bench.base) == bench.path
        assert markers.prepare(bench.path) == found
    assert bench.names() == before
    assert uuid.UUID(found)
    bench.share().probe()


@with_chains
def a_hypervisor_is_told_what_it_needs(bench: Bench) -> None:
    options = () if bench.kind == "local" else ("vers=4.2", "hard")
    told = bench.module.connection_info(bench.export.export, options, "volume-x.y", "qcow2", bench.base)
    assert told == {
        "driver_volume_type": bench.kind,
        "export": bench.export.export,
        "name": "volume-x.y",
        "format": "qcow2",
        "options": "-o vers=4.2,hard" if options else None,
        "mount_point_base": str(bench.base),
    }
    assert Path(told["mount_point_base"]) in bench.path.parents


@everywhere
def a_share_without_its_marker_or_with_anothers_is_no_share(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.second((0, 1, 5))
        (bench.path / f"a-file-{volume.id}").write_bytes(b"x")
        volume.share.write_document(names.info_name(volume.id), {"active": "y"})
        marker = bench.path / MARKER
        known = marker.read_bytes()
        before = bench.names()
        try:
            for content in (None, b"", b"{", b"[]", b'"x"', json.dumps({"share_id": str(uuid.uuid4())}).encode(), b"\xff"):
                marker.unlink() if content is None else marker.write_bytes(content)
                expect_all_unavailable(bench, volume.share, volume)
                marker.write_bytes(known)
            (bench.scratch / "marker").write_bytes(known)
            marker.unlink()
            marker.symlink_to(bench.scratch / "marker")
            expect_all_unavailable(bench, volume.share, volume)
        finally:
            marker.unlink(missing_ok=True)
            marker.write_bytes(known)
            marker.chmod(0o660)
        assert bench.names() == before
        os.unlink(bench.path / f"a-file-{volume.id}")
        volume.check()


@everywhere
def a_share_that_is_away_is_never_taken_for_an_empty_one(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.second((0, 1, 5))
        with bench.lost():
            expect_all_unavailable(bench, volume.share, volume)
        volume.share.probe()
        volume.check()


@with_chains
def what_is_free_and_what_is_there_is_told_in_bytes(bench: Bench) -> None:
    share, found = bench.share(), os.statvfs(bench.path)
    assert share.total() == found.f_blocks * found.f_frsize
    assert 0 < share.free() <= share.total()
    share.probe_for_writing(share.free() // 2)
    with refused(ShareUnavailable, "is full"):
        share.probe_for_writing(share.total() + 1)
    full = bench.share(minimum_free=share.total() + 1)
    with bench.volume() as volume:
        top = volume.overlay(volume.base, (0, 1, 5))
        makings: list[Callable[[], None]] = [
            lambda: full.create(volume.id, Image(volume.new_name(), "qcow2", GIB), "1"),
            lambda: full.create_overlay(volume.id, Image(volume.new_name(), "qcow2", GIB, top, "qcow2"), "1"),
            lambda: full.copy(volume.id, Source(top, "qcow2", 0), Image(volume.new_name(), "qcow2", GIB), "1"),
            lambda: full.resize(volume.id, top, "qcow2", 2 * GIB),
        ]
        for make in makings:
            with refused(ShareUnavailable, "is full"):
                make()
        volume.check()
        assert volume.share.allocated(top) == volume.path(top).stat().st_blocks * 512
        with refused(FileNotFoundError):
            volume.share.allocated(volume.new_name())
        full.remove(volume.id, top)
        volume.gone(top)


@everywhere
def files_are_listed_by_volume_and_never_what_lies_beside_them(bench: Bench) -> None:
    with bench.volume() as volume, bench.volume() as other:
        top = volume.second()
        volume.share.write_document(names.info_name(volume.id), {"active": top})
        beside = [f".tmp.{volume.id}.1", f".trash.{volume.base}", f"{volume.base}.bak", f"volume-{volume.id.upper()}"]
        for name in beside:
            volume.path(name).write_bytes(b"x")
        assert sorted(volume.share.files(volume.id)) == sorted([volume.base, top])
        assert other.share.files(other.id) == [other.base]
        assert set(volume.share.listing()) == bench.names() - set(workdir.lying(bench.path))
        for name in beside:
            volume.path(name).unlink()


@everywhere
def a_file_somebody_has_open_is_seen(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, 1, 5))
        top = volume.second((0, 1, 6))
        assert volume.share.in_use(volume.id) == []
        with bench.reader.held_open(volume.path(top), volume.format):
            assert top in volume.share.in_use(volume.id)
        assert volume.share.in_use(volume.id) == []


@with_chains
def a_file_that_backs_another_is_not_removed_also_when_that_is_another_volumes(bench: Bench) -> None:
    with bench.volume() as volume, bench.volume() as other:
        volume.write(volume.base, (0, 1, 5))
        middle = volume.overlay(volume.base, (2, 1, 6))
        link = other.new_name()
        other.share.create_overlay(other.id, Image(link, "qcow2", GIB, middle, "qcow2"), "1")
        other.known(link, volume.disks[middle])
        assert volume.share.dependants(volume.base) == [middle]
        assert volume.share.dependants(middle) == [link]
        for name in (volume.base, middle):
            with refused(ChainConflict, "is backed by it"):
                volume.share.remove(volume.id, name)
        lower = other.new_name()
        other.share.create_overlay(other.id, Image(lower, "qcow2", GIB, volume.base, "qcow2"), "2")
        other.known(lower, volume.disks[volume.base])
        with refused(ChainConflict, "would change what"):
            volume.share.commit(volume.id, middle, volume.base)
        volume.check()
        other.check()
        for owner, name in ((other, link), (other, lower), (volume, middle)):
            for _ in range(2):
                owner.share.remove(owner.id, name)
            owner.gone(name)
        volume.check()


@with_chains
def a_temporary_file_of_an_interrupted_making_is_in_nobodys_way(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, 4, 5))
        token = volume.token()
        source, backing = Source(volume.base, "qcow2", 0), (volume.base, "qcow2")
        makings: list[Callable[[Image], None]] = [
            lambda image: volume.share.create(volume.id, image, token),
            lambda image: volume.share.copy(volume.id, source, image, token),
            lambda image: volume.share.create_overlay(volume.id, Image(image.name, "qcow2", GIB, *backing), token),
        ]
        begun, earlier = volume.path_on_the_way(token), volume.path(names.temporary_name(volume.id, token))
        contents = (b"", b"QFI\xfb", volume.path(volume.base).read_bytes()[: 3 << 16])
        for content, temporary in itertools.product(contents, (begun, earlier)):
            for make in makings:
                temporary.write_bytes(content)
                name = volume.new_name()
                make(Image(name, "qcow2", GIB))
                assert not temporary.exists()
                volume.share.remove(volume.id, name)
            temporary.write_bytes(content)
            for _ in range(2):
                assert volume.share.holds_temporary(volume.id, token) is temporary.exists()
                volume.share.remove_temporary(volume.id, token)
            assert not temporary.exists()
        volume.check()


@everywhere
def a_file_with_its_temporary_name_still_beside_it_is_whole(bench: Bench) -> None:
    """A crash between link and unlink."""
    with bench.volume() as volume:
        volume.write(volume.base, (0, 4, 5))
        token, source = volume.token(), volume.source(volume.base)
        name = volume.known(volume.new_name(), volume.disks[volume.base], volume.format)
        for _ in range(2):
            volume.share.copy(volume.id, source, volume.image(name), token)
            os.link(volume.path(name), volume.path_on_the_way(token))
        volume.share.remove_temporary(volume.id, token)
        volume.check()


@everywhere
def a_rename_that_was_interrupted_between_its_two_names_is_ended_by_a_repeat(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, 4, 5))
        name, disk = volume.new_name(), volume.disks.pop(volume.base)
        os.link(volume.path(volume.base), volume.path(name))
        volume.share.rename(volume.id, volume.base, name)
        volume.known(name, disk, volume.format)
        volume.check()


@everywhere
def trash_is_swept_when_it_is_old_and_nothing_else_is(bench: Bench) -> None:
    with bench.volume() as volume:
        for place in (bench.path / workdir.NAME, bench.path):
            trash, strange = place / f".trash.{volume.new_name()}", place / f".trash.{volume.id}"
            for path in (trash, strange):
                path.write_bytes(b"x")
            volume.share.sweep()
            assert trash.exists(), "what is being removed at this moment was swept"
            with patch.object(directory, "TRASH_SECONDS", -1e9):
                for _ in range(2):
                    volume.share.sweep()
            assert not trash.exists()
            strange.unlink()
        volume.check()


@everywhere
def a_document_that_was_half_written_is_in_nobodys_way(bench: Bench) -> None:
    with bench.volume() as volume:
        name = names.info_name(volume.id)
        volume.share.write_document(name, {"active": "x"})
        (bench.path / workdir.NAME / f".tmp.{name}").write_bytes(b'{"acti')
        assert volume.share.read_document(name) == {"active": "x"}
        volume.share.write_document(name, {"active": "y"})
        assert volume.share.read_document(name) == {"active": "y"}


KILLED = """
import sys
from pathlib import Path
from stillframe.chain.image import Image
from stillframe.host.copies import Source
from stillframe.volumes.storage.drivers.directory import DirectoryShare
from stillframe.volumes.storage.drivers.native import NativeShare
path, share_id, volume_id, source, name, token, format_ = sys.argv[1:]
share = (DirectoryShare if format_ == "qcow2" else NativeShare)(Path(path), share_id, 0)
print("begun", flush=True)
share.copy(volume_id, Source(source, format_, 0), Image(name, format_, 1 << 30), token)
"""


@everywhere
def a_copy_whose_process_was_killed_is_made_anew(bench: Bench) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, 1000, 5), (6, 500, 7))
        token, name = volume.token(), volume.new_name()
        for milliseconds in (5, 60, 120):
            arguments = [str(bench.path), volume.share.share_id, volume.id, volume.base, name, token, volume.format]
            child = subprocess.Popen([sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE)
            assert child.stdout is not None
            assert child.stdout.readline()
            time.sleep(milliseconds / 1000)
            child.send_signal(signal.SIGKILL)
            child.wait()
            child.stdout.close()
        volume.share.copy(volume.id, volume.source(volume.base), volume.image(name), token)
        volume.known(name, volume.disks[volume.base], volume.format)
        volume.check()


@everywhere
def preparing_a_share_with_open_rights_is_refused(bench: Bench) -> None:
    if bench.capabilities.here:
        mode = bench.path.stat().st_mode & 0o7777
        wanted = 0o2750 if bench.capabilities.exported else 0o2770  # a target daemon, which is root, opens files by name
        assert mode == wanted, f"the share's directory was made with mode {mode:o}"
        return
    mode = bench.path.stat().st_mode & 0o7777
    bench.path.chmod(0o2777)
    try:
        with refused(BadConfiguration, "everybody may write"):
            bench.module.prepare(Export(bench.export.export, bench.export.options), bench.base)
    finally:
        bench.path.chmod(mode)

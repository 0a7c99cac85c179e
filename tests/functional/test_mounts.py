"""Mounting a real GlusterFS volume, and the probe of a share whose client or brick is away."""

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillframe.errors import ShareUnavailable
from stillframe.host import mounts
from stillframe.host.probe import MARKER, Prober
from stillframe.volumes.storage.drivers import glusterfs
from stillframe.volumes.storage.drivers.shares_config import Export
from tests.support.gluster import Gluster, gluster, wait_until
from tests.support.mounted import is_mounted

CONTENT = b'{"share_id": "1"}\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gluster]:
    with gluster(tmp_path_factory.mktemp("gluster")) as made:
        yield made


@pytest.fixture
def share(server: Gluster) -> Path:
    """The mounted share with its marker, as mounted anew."""
    server.mount()
    (server.path / MARKER).write_bytes(CONTENT)
    return server.path


def _told(prober: Prober) -> str:
    with pytest.raises(ShareUnavailable) as raised:
        prober.check()
    return raised.value.message


def test_a_share_is_mounted_where_it_belongs(server: Gluster, share: Path) -> None:
    found = mounts.find(share)
    assert found is not None
    assert (found.fstype, found.source) == ("fuse.glusterfs", server.export)
    assert {"nosuid", "nodev", "noexec"} <= found.options
    assert is_mounted(share, "glusterfs", server.export)
    assert not is_mounted(share, "nfs", server.export)


def test_mounting_again_changes_nothing(server: Gluster, share: Path) -> None:
    before = server.client_pid
    assert glusterfs.prepare(Export(server.export, server.options), server.mount_point_base) == share
    assert server.client_pid == before
    lines = Path("/proc/self/mountinfo").read_text().count(str(share))
    assert lines == 1


def test_the_client_keeps_no_limit_of_the_service(server: Gluster, share: Path) -> None:
    limits = Path(f"/proc/{server.client_pid}/limits").read_text().splitlines()
    found = {line[:26].strip(): line[26:].split()[:2] for line in limits}
    ours = {"Max cpu time": "CPU", "Max address space": "AS", "Max open files": "NOFILE"}
    for name, short in ours.items():
        hard = resource.getrlimit(getattr(resource, f"RLIMIT_{short}"))[1]
        assert found[name][1] == ("unlimited" if hard == resource.RLIM_INFINITY else str(hard))


def test_the_rights_of_a_fresh_volume_are_looked_at(server: Gluster, share: Path) -> None:
    mode = share.stat().st_mode & 0o7777
    share.chmod(0o777)
    try:
        with pytest.raises(Exception, match="everybody may write to the share's directory"):
            glusterfs.prepare(Export(server.export, server.options), server.mount_point_base)
    finally:
        share.chmod(mode)


def test_a_missing_volume_is_reported_and_leaves_nothing(server: Gluster) -> None:
    point = server.mount_point_base / "none"
    for _ in range(3):
        with pytest.raises(ShareUnavailable, match="cannot be mounted"):
            mounts.mount("glusterfs", f"{server.address}:/none", point, server.options)
        assert mounts.find(point) is None


def test_a_share_that_is_in_use_stays_mounted(server: Gluster, share: Path) -> None:
    with (share / MARKER).open("rb"), pytest.raises(ShareUnavailable, match="target is busy"):
        mounts.unmount(share)
    assert is_mounted(share, "glusterfs", server.export)
    mounts.unmount(share)
    mounts.unmount(share)
    assert mounts.find(share) is None
    # What lies there now is the directory of the mount point: never the share.
    assert "No such file or directory" in _told(Prober(share))


def test_a_stopped_client_is_reported_at_the_deadline_and_blocks_one_process_only(server: Gluster, share: Path) -> None:
    prober = Prober(share, seconds=1.0, fresh_for=0.0)
    assert prober.check() == CONTENT
    with server.client_stopped():
        assert _told(prober) == f"the share {share} does not answer within 1 s"
        told = {_told(prober) for _ in range(5)}
        looking = _looking_at(share)
    wait_until(lambda: not _looking_at(share), "the child to end")
    assert len(looking) <= 1
    assert all("does not answer" in words for words in told)
    assert prober.check() == CONTENT


def test_a_client_that_died_is_reported_and_mounted_again(server: Gluster, share: Path) -> None:
    os.kill(server.client_pid, signal.SIGKILL)
    prober = Prober(share, fresh_for=0.0)
    wait_until(lambda: _fails(prober), "the kernel to see that the client is gone")
    assert "Transport endpoint is not connected" in _told(prober)
    mounts.unmount(share)
    server.mount()
    assert prober.check() == CONTENT


def test_a_brick_that_died_is_reported_and_found_again(server: Gluster, share: Path) -> None:
    prober = Prober(share, seconds=5.0, fresh_for=0.0)
    server.stop_brick()
    try:
        wait_until(lambda: _fails(prober), "the client to see that its brick is gone")
    finally:
        server.start_brick()
    assert prober.check() == CONTENT


def test_a_distributed_volume_is_one_share(server: Gluster, tmp_path: Path) -> None:
    with gluster(tmp_path, bricks=2) as other:
        assert other.export != server.export
        for number in range(32):
            (other.path / f"file{number}").write_text(str(number))
        spread = [set(os.listdir(tmp_path / "bricks" / str(number))) - {".glusterfs"} for number in (0, 1)]
        assert spread[0] and spread[1] and len(spread[0] | spread[1]) == 32
        assert {path.name for path in other.path.iterdir()} == spread[0] | spread[1]
    assert mounts.find(other.path) is None


def _fails(prober: Prober) -> bool:
    try:
        prober.check()
    except ShareUnavailable:
        return True
    return False


def _looking_at(share: Path) -> list[str]:
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in listed if line.split()[0] in ("dd", "stat", "setpriv") and str(share) in line]

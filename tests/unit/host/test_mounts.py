"""Mounting without mounting: where shares belong, how the kernel's list is read, what mount is asked and what is told."""

import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from stillframe.errors import HostCommandFailed, ShareUnavailable
from stillframe.host import mounts
from stillframe.host.run import Limits, Outcome
from tests.support.mounted import is_mounted

ROOT = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"
NFS = "88 22 0:45 / {point} rw,nosuid,nodev,noexec,relatime shared:9 - nfs4 {source} rw,vers=4.2,hard,local_lock=none"
GLUSTER = "89 22 0:46 / {point} rw,relatime - fuse.glusterfs {source} rw,user_id=0,group_id=0,allow_other"
EXPORT = "nas.example.org:/srv/share one"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path.resolve() / "mnt"


@pytest.fixture
def mountinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes what the kernel would show."""
    path = tmp_path / "mountinfo"
    path.write_text(ROOT + "\n")
    monkeypatch.setattr(mounts, "_MOUNTINFO", path)

    def show(*lines: str) -> None:
        path.write_text("\n".join([ROOT, *lines]) + "\n")

    return show


class Commands:
    """Stands in for host.run.attempt: remembers what was asked, does what a test wants done."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.bounds: list[Limits] = []
        self.outcome = Outcome(0, "", "")
        self.effect: Callable[[], None] = lambda: None

    def attempt(self, command: list[str], *, cwd: Path, limits: Limits) -> Outcome:
        assert cwd == Path("/")
        self.asked.append(command)
        self.bounds.append(limits)
        self.effect()
        return self.outcome


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    made = Commands()
    monkeypatch.setattr(mounts, "attempt", made.attempt)
    return made


def test_a_share_belongs_where_nova_and_cinder_mount_it(base: Path) -> None:
    # The directory Cinder's own tests of its NFS driver expect for this export.
    assert mounts.mount_point(Path("/mnt/test"), "nfs-host1:/export") == Path("/mnt/test/2f4f60214cf43c595666dd815f0360a4")
    assert mounts.mount_point(base, "a:/b") != mounts.mount_point(base, "a:/b/")


def test_the_kernels_list_is_read(base: Path, mountinfo: Callable[..., None]) -> None:
    point = mounts.mount_point(base, EXPORT)
    mountinfo(NFS.format(point=point, source=r"nas.example.org:/srv/share\040one"))
    found = mounts.find(point)
    assert found is not None
    assert (found.fstype, found.source) == ("nfs4", EXPORT)
    assert {"nosuid", "hard", "vers=4.2"} <= found.options
    assert is_mounted(point, "nfs", EXPORT)
    assert not is_mounted(point, "glusterfs", EXPORT)
    assert not is_mounted(point, "nfs", "nas.example.org:/srv/other")
    assert not is_mounted(point.with_name("other"), "nfs", EXPORT)


def test_the_kernel_leaves_out_the_last_slash(base: Path, mountinfo: Callable[..., None]) -> None:
    mountinfo(NFS.format(point=base / "p", source="nas:/srv/a"))
    assert is_mounted(base / "p", "nfs", "nas:/srv/a/")


def test_only_the_uppermost_mount_counts(base: Path, mountinfo: Callable[..., None]) -> None:
    mountinfo(NFS.format(point=base / "p", source="nas:/a"), GLUSTER.format(point=base / "p", source="g:/v"))
    assert not is_mounted(base / "p", "nfs", "nas:/a")
    assert is_mounted(base / "p", "glusterfs", "g:/v")


def test_a_base_reached_through_a_link_is_the_same_place(tmp_path: Path, base: Path, mountinfo: Callable[..., None]) -> None:
    base.mkdir()
    (tmp_path / "link").symlink_to(base)
    mountinfo(NFS.format(point=base / "p", source="nas:/a"))
    assert is_mounted(tmp_path / "link/p", "nfs", "nas:/a")


def test_a_mounted_share_is_left_as_it_is(base: Path, mountinfo: Callable[..., None], commands: Commands) -> None:
    mountinfo(NFS.format(point=base / "p", source="nas:/a"))
    mounts.mount("nfs", "nas:/a", base / "p", ["hard"])
    assert commands.asked == []


def test_a_share_is_mounted_with_its_options(base: Path, mountinfo: Callable[..., None], commands: Commands) -> None:
    commands.effect = lambda: mountinfo(NFS.format(point=base / "p", source="nas:/a"))
    mounts.mount("nfs", "nas:/a", base / "p", ["hard", "vers=4.2"])
    assert commands.asked == [["mount", "-t", "nfs", "-o", "hard,vers=4.2", "--", "nas:/a", str(base / "p")]]
    assert (base / "p").stat().st_mode & 0o7777 == 0o755


def test_the_client_of_glusterfs_is_not_bound_by_limits_meant_for_qemu_img(
    base: Path, mountinfo: Callable[..., None], commands: Commands
) -> None:
    commands.effect = lambda: mountinfo(GLUSTER.format(point=base / "p", source="g:/v"))
    mounts.mount("glusterfs", "g:/v", base / "p", [])
    assert commands.asked == [["mount", "-t", "glusterfs", "--", "g:/v", str(base / "p")]]
    (bounds,) = commands.bounds
    assert (bounds.cpu_seconds, bounds.address_space, bounds.open_files) == (
        resource.getrlimit(resource.RLIMIT_CPU)[1],
        resource.getrlimit(resource.RLIMIT_AS)[1],
        resource.getrlimit(resource.RLIMIT_NOFILE)[1],
    )


@pytest.mark.parametrize(
    ("complaint", "told"),
    [("mount.nfs: access denied by server", "mount.nfs: access denied by server"), ("", "mount failed with exit code 32")],
)
def test_what_mount_says_is_told(
    base: Path, mountinfo: Callable[..., None], commands: Commands, complaint: str, told: str
) -> None:
    commands.outcome = Outcome(32, "", complaint)
    with pytest.raises(ShareUnavailable) as raised:
        mounts.mount("nfs", "nas:/a", base / "p", [])
    assert raised.value.message == f"the share nas:/a cannot be mounted at {base / 'p'}: {told}"


def test_a_failed_mount_leaves_nothing_behind(base: Path, mountinfo: Callable[..., None], commands: Commands) -> None:
    commands.outcome = Outcome(1, "", "Mount failed.")
    commands.effect = lambda: mountinfo(GLUSTER.format(point=base / "p", source="g:/v"))
    with pytest.raises(ShareUnavailable, match="Mount failed"):
        mounts.mount("glusterfs", "g:/v", base / "p", [])
    assert commands.asked[1:] == [["umount", "--", str(base / "p")]]


def test_a_mount_that_does_not_end_is_told(base: Path, mountinfo: Callable[..., None], commands: Commands) -> None:
    def fail() -> None:
        raise HostCommandFailed("mount -t did not end within 30 s")

    commands.effect = fail
    with pytest.raises(ShareUnavailable, match="mount -t did not end within 30 s"):
        mounts.mount("nfs", "nas:/a", base / "p", [])


def test_a_place_taken_by_another_share_is_not_used(base: Path, mountinfo: Callable[..., None], commands: Commands) -> None:
    mountinfo(NFS.format(point=base / "p", source="nas:/b"))
    with pytest.raises(ShareUnavailable, match=r"nas:/b \(nfs4\) is mounted there"):
        mounts.mount("nfs", "nas:/a", base / "p", [])
    assert commands.asked == []


def test_a_mount_that_left_nothing_is_no_success(base: Path, mountinfo: Callable[..., None], commands: Commands) -> None:
    with pytest.raises(ShareUnavailable, match="nothing is mounted there"):
        mounts.mount("glusterfs", "g:/v", base / "p", [])
    assert len(commands.asked) == 1


def test_a_file_in_the_way_is_told(tmp_path: Path, mountinfo: Callable[..., None], commands: Commands) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ShareUnavailable, match="cannot be used"):
        mounts.mount("nfs", "nas:/a", tmp_path / "file/p", [])
    assert commands.asked == []


def test_unmounting_is_done_once(base: Path, mountinfo: Callable[..., None], commands: Commands) -> None:
    mounts.unmount(base / "p")
    assert commands.asked == []
    mountinfo(NFS.format(point=base / "p", source="nas:/a"))
    mounts.unmount(base / "p")
    assert commands.asked == [["umount", "--", str(base / "p")]]

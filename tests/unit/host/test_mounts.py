"""Mounting without mounting: where shares belong, how the kernel's list is read, what mount is asked and what is told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stillframe.errors import HostCommandFailed, ShareUnavailable
from stillframe.host import mounts
from stillframe.host.run import Limits

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
    """Stands in for host.run: remembers what was asked, does what a test wants done."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.effect: Callable[[], None] = lambda: None

    def run(self, command: list[str], *, cwd: Path, limits: Limits) -> str:
        assert cwd == Path("/") and limits.seconds > mounts.MOUNT_SECONDS
        self.asked.append(command)
        self.effect()
        return ""


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    made = Commands()
    monkeypatch.setattr(mounts, "run", made.run)
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
    assert mounts.is_mounted(point, "nfs", EXPORT)
    assert not mounts.is_mounted(point, "glusterfs", EXPORT)
    assert not mounts.is_mounted(point, "nfs", "nas.example.org:/srv/other")
    assert not mounts.is_mounted(point.with_name("other"), "nfs", EXPORT)


def test_the_kernel_leaves_out_the_last_slash(base: Path, mountinfo: Callable[..., None]) -> None:
    mountinfo(NFS.format(point=base / "p", source="nas:/srv/a"))
    assert mounts.is_mounted(base / "p", "nfs", "nas:/srv/a/")


def test_only_the_uppermost_mount_counts(base: Path, mountinfo: Callable[..., None]) -> None:
    mountinfo(NFS.format(point=base / "p", source="nas:/a"), GLUSTER.format(point=base / "p", source="g:/v"))
    assert not mounts.is_mounted(base / "p", "nfs", "nas:/a")
    assert mounts.is_mounted(base / "p", "glusterfs", "g:/v")


def test_a_base_reached_through_a_link_is_the_same_place(tmp_path: Path, base: Path, mountinfo: Callable[..., None]) -> None:
    base.mkdir()
    (tmp_path / "link").symlink_to(base)
    mountinfo(NFS.format(point=base / "p", source="nas:/a"))
    assert mounts.is_mounted(tmp_path / "link/p", "nfs", "nas:/a")


def test_a_mounted_share_is_left_as_it_is(base: Path, mountinfo: Callable[..., None], commands: Commands) -> None:
    mountinfo(NFS.format(point=base / "p", source="nas:/a"))
    mounts.mount("nfs", "nas:/a", base / "p", ["hard"])
    assert commands.asked == []


def test_a_share_is_mounted_with_its_options(base: Path, mountinfo: Callable[..., None], commands: Commands) -> None:
    commands.effect = lambda: mountinfo(NFS.format(point=base / "p", source="nas:/a"))
    mounts.mount("nfs", "nas:/a", base / "p", ["hard", "vers=4.2"])
    (asked,) = commands.asked
    assert asked[:3] == ["timeout", "--kill-after=2", "30"]
    assert asked[3:] == ["mount", "-t", "nfs", "-o", "hard,vers=4.2", "--", "nas:/a", str(base / "p")]
    assert (base / "p").stat().st_mode & 0o7777 == 0o755


def test_the_client_of_glusterfs_is_not_bound_by_limits_meant_for_qemu_img(
    base: Path, mountinfo: Callable[..., None], commands: Commands
) -> None:
    commands.effect = lambda: mountinfo(GLUSTER.format(point=base / "p", source="g:/v"))
    mounts.mount("glusterfs", "g:/v", base / "p", [])
    (asked,) = commands.asked
    assert asked[3:] == [
        *("prlimit", "--nofile=1048576", "--cpu=unlimited", "--as=unlimited", "--"),
        *("mount", "-t", "glusterfs", "--", "g:/v", str(base / "p")),
    ]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("timeout --kill-after=2 ended with 32: mount.nfs: access denied by server", "mount.nfs: access denied by server"),
        ("timeout --kill-after=2 ended with 124: without a word", "no answer within 30 s"),
        ("timeout --kill-after=2 ended with 137: without a word", "no answer within 30 s"),
        ("timeout --kill-after=2 did not end within 35 s", "no answer within 30 s"),
    ],
)
def test_what_mount_says_is_told(base: Path, mountinfo: Callable[..., None], commands: Commands, said: str, told: str) -> None:
    def fail() -> None:
        raise HostCommandFailed(said)

    commands.effect = fail
    with pytest.raises(ShareUnavailable) as raised:
        mounts.mount("nfs", "nas:/a", base / "p", [])
    assert raised.value.message == f"the share nas:/a cannot be mounted at {base / 'p'}: {told}"


def test_a_place_taken_by_another_share_is_not_used(base: Path, mountinfo: Callable[..., None], commands: Commands) -> None:
    mountinfo(NFS.format(point=base / "p", source="nas:/b"))
    with pytest.raises(ShareUnavailable, match=r"nas:/b \(nfs4\) lies there"):
        mounts.mount("nfs", "nas:/a", base / "p", [])
    assert commands.asked == []


def test_a_mount_that_left_nothing_is_no_success(base: Path, mountinfo: Callable[..., None], commands: Commands) -> None:
    with pytest.raises(ShareUnavailable, match="nothing lies there"):
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
    assert [asked[3:] for asked in commands.asked] == [["umount", "--", str(base / "p")]]

"""The NFS backend: its shares with their options, what a hypervisor is told, and the mounts it refuses."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from stillframe.errors import BadConfiguration
from stillframe.host import mounts, probe
from stillframe.host.mounts import Mount
from stillframe.volumes.storage.drivers import nfs
from stillframe.volumes.storage.drivers.shares_config import Export

DEFAULTS = ("hard", "vers=4.2", "nosuid", "nodev", "noexec")


@dataclass
class Section:
    nfs_shares_config: str | None
    nfs_mount_options: str | None = None


@pytest.fixture
def shares(tmp_path: Path) -> Path:
    return tmp_path / "nfs_shares"


def test_shares_are_mounted_hard_with_4_2_and_without_programs(shares: Path) -> None:
    shares.write_text("nas:/a\n")
    assert nfs.shares(Section(str(shares))) == [Export("nas:/a", DEFAULTS)]


@pytest.mark.parametrize("version", ["vers=4.1", "nfsvers=4.1", "minorversion=1"])
def test_an_operators_version_replaces_ours(shares: Path, version: str) -> None:
    shares.write_text(f"nas:/a -o {version}\n")
    ((_, options),) = [(each.export, each.options) for each in nfs.shares(Section(str(shares)))]
    assert set(options) == {"hard", "nosuid", "nodev", "noexec", version}


def test_a_shares_own_options_come_on_top_of_the_common_ones(shares: Path) -> None:
    shares.write_text("nas:/a\nnas:/b -o timeo=100\n")
    first, second = nfs.shares(Section(str(shares), "timeo=600,nconnect=4"))
    assert {"timeo=600", "nconnect=4"} <= set(first.options)
    assert {"timeo=100", "nconnect=4"} <= set(second.options) and "timeo=600" not in second.options


@pytest.mark.parametrize("option", ["soft", "softerr", "softreval", "nocto", "nolock", "local_lock=all", "bg", "exec", "x-y"])
def test_options_that_lose_data_are_refused_wherever_they_stand(shares: Path, option: str) -> None:
    shares.write_text("nas:/a\n")
    with pytest.raises(BadConfiguration, match="the option nfs_mount_options: mount option"):
        nfs.shares(Section(str(shares), f"hard,{option}"))
    shares.write_text(f"nas:/a -o {option}\n")
    with pytest.raises(BadConfiguration, match="line 1: mount option"):
        nfs.shares(Section(str(shares)))


def test_why_soft_is_refused_is_said(shares: Path) -> None:
    shares.write_text("nas:/a -o soft\n")
    with pytest.raises(BadConfiguration, match=r"a write that found no server is lost.*use hard"):
        nfs.shares(Section(str(shares)))


def test_no_list_is_no_backend() -> None:
    with pytest.raises(BadConfiguration, match="nfs_shares_config"):
        nfs.shares(Section(None))


def test_a_hypervisor_is_told_what_cinder_tells_nova() -> None:
    assert nfs.connection_info("nas:/a", DEFAULTS, "volume-1", "qcow2", Path("/mnt")) == {
        "driver_volume_type": "nfs",
        "export": "nas:/a",
        "name": "volume-1",
        "format": "qcow2",
        "options": "-o hard,vers=4.2,nosuid,nodev,noexec",
        "mount_point_base": "/mnt",
    }
    assert nfs.connection_info("nas:/a", (), "volume-1", "qcow2", Path("/mnt"))["options"] is None


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of a share that fstab mounted; ``mount`` finds it there, and its directory has the right owner."""
    options = ["rw", "vers=4.2", "local_lock=none"]
    monkeypatch.setattr(mounts, "mount", lambda *_: None)
    monkeypatch.setattr(mounts, "find", lambda point: Mount(str(point), "nfs4", "nas:/a", frozenset(options)))
    monkeypatch.setattr(probe, "refuse_if_open", lambda _: None)
    return options


def test_a_share_mounted_by_fstab_is_taken(mounted: list[str], tmp_path: Path) -> None:
    mounted.append("hard")
    assert nfs.prepare(Export("nas:/a", DEFAULTS), tmp_path) == mounts.mount_point(tmp_path, "nas:/a")


@pytest.mark.parametrize("option", ["soft", "softerr", "local_lock=all"])
def test_a_share_somebody_mounted_soft_is_refused(mounted: list[str], tmp_path: Path, option: str) -> None:
    mounted.append(option)
    with pytest.raises(BadConfiguration, match=f"nas:/a is mounted at .* with the option {option}: "):
        nfs.prepare(Export("nas:/a", DEFAULTS), tmp_path)


def test_an_open_directory_is_refused(mounted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise BadConfiguration(f"everybody may write to {path}")

    monkeypatch.setattr(probe, "refuse_if_open", refuse)
    with pytest.raises(BadConfiguration, match="everybody"):
        nfs.prepare(Export("nas:/a", DEFAULTS), tmp_path)

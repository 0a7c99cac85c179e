"""The GlusterFS backend: its shares with their options, and what a hypervisor is told."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from stillframe.errors import BadConfiguration
from stillframe.host import mounts, probe
from stillframe.volumes.storage.drivers import glusterfs
from stillframe.volumes.storage.drivers.shares_config import Export


@dataclass
class Section:
    glusterfs_shares_config: str | None


def test_shares_have_their_options(tmp_path: Path) -> None:
    shares = tmp_path / "glusterfs_shares"
    shares.write_text("g1:/volumes -o backup-volfile-servers=g2:g3\ng1:/more\n")
    assert glusterfs.shares(Section(str(shares))) == [
        Export("g1:/volumes", ("nosuid", "nodev", "noexec", "backup-volfile-servers=g2:g3")),
        Export("g1:/more", ("nosuid", "nodev", "noexec")),
    ]


@pytest.mark.parametrize("option", ["xlator-option=*.quorum=none", "suid", "ro", "hard"])
def test_options_nobody_needs_are_refused(tmp_path: Path, option: str) -> None:
    shares = tmp_path / "glusterfs_shares"
    shares.write_text(f"g1:/volumes -o {option}\n")
    with pytest.raises(BadConfiguration, match="line 1: mount option"):
        glusterfs.shares(Section(str(shares)))


def test_no_list_is_no_backend() -> None:
    with pytest.raises(BadConfiguration, match="glusterfs_shares_config"):
        glusterfs.shares(Section(None))


def test_a_hypervisor_is_told_what_cinder_told_nova() -> None:
    assert glusterfs.connection_info("g1:/volumes", ("nosuid",), "volume-1.2", "qcow2", Path("/mnt")) == {
        "driver_volume_type": "glusterfs",
        "export": "g1:/volumes",
        "name": "volume-1.2",
        "format": "qcow2",
        "options": "-o nosuid",
        "mount_point_base": "/mnt",
    }


def test_a_share_is_mounted_then_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[object, ...]] = []

    def mount(kind: str, export: str, point: Path, options: Sequence[str]) -> None:
        done.append((kind, export, point, options))

    monkeypatch.setattr(mounts, "mount", mount)
    monkeypatch.setattr(probe, "refuse_if_open", lambda path: done.append((path,)))
    point = glusterfs.prepare(Export("g1:/v", ("nosuid",)), tmp_path)
    assert point == mounts.mount_point(tmp_path, "g1:/v")
    assert done == [("glusterfs", "g1:/v", point, ("nosuid",)), (point,)]

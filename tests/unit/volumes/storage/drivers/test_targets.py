"""Who gets at a volume that a target gives out, and with which password."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from stillframe.errors import BadConfiguration, BadRequest
from stillframe.host.tgt import Target
from stillframe.volumes.storage.drivers import iscsi
from stillframe.volumes.storage.drivers.targets import Held, Portal, Targets, initiator_of
from tests.unit.builders import OTHER_VOLUME, SNAPSHOT, VOLUME

INITIATOR = "iqn.1993-08.org.debian:01:abc"
HELD = Held(SNAPSHOT, INITIATOR)


def targets(directory: Path, address: str = "192.0.2.1", daemon: Any = None) -> Targets:
    return Targets(daemon or Mock(), Portal(address, 3260, "iqn.2010-10.org.openstack:"), directory / "chap.key")


def test_connection_info_has_cinders_shape(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    info = targets(tmp_path).connection_info(VOLUME, HELD)
    assert {key: info[key] for key in ("driver_volume_type", "target_portal", "target_lun", "auth_method", "discard")} == {
        "driver_volume_type": "iscsi",
        "target_portal": "192.0.2.1:3260",
        "target_lun": 1,
        "auth_method": "CHAP",
        "discard": True,
    }
    assert info["target_iqn"] == f"iqn.2010-10.org.openstack:volume-{VOLUME}"
    assert targets(tmp_path, "2001:db8::1").connection_info(VOLUME, HELD)["target_portal"] == "[2001:db8::1]:3260"


def test_each_attachment_has_a_password_of_its_own_which_outlives_the_process(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    one = targets(tmp_path).connection_info(VOLUME, HELD)
    other = targets(tmp_path).connection_info(VOLUME, Held(VOLUME, INITIATOR))
    assert one == targets(tmp_path).connection_info(VOLUME, HELD)
    assert one["auth_password"] != other["auth_password"] and one["auth_username"] != other["auth_username"]
    assert len(one["auth_password"]) == 16 and one["auth_password"].isalnum()
    assert (tmp_path / "chap.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "chap.key").unlink()
    assert targets(tmp_path).connection_info(VOLUME, HELD)["auth_password"] != one["auth_password"]


@pytest.mark.parametrize("initiator", [INITIATOR, "eui.0123456789ABCDEF", "naa.52004567BA64678D"])
def test_an_initiator_is_known_by_its_name(initiator: str) -> None:
    assert initiator_of({"initiator": initiator}) == initiator


@pytest.mark.parametrize(
    "bad", [None, "", 7, "host", "iqn.x", "iqn.2001-01.a:b,password=c", "iqn.2001-01.a:b\n", f"iqn.2001-01.{'a' * 300}"]
)
def test_a_connector_without_one_is_refused(bad: object) -> None:
    with pytest.raises(BadRequest, match="no initiator"):
        initiator_of({"initiator": bad})


def test_only_targets_of_this_backend_and_share_are_ours(tmp_path: Path) -> None:
    prefix, daemon = "iqn.2010-10.org.openstack:", Mock()
    mine = Target(1, f"{prefix}volume-{VOLUME}", f"{tmp_path}/volume-{VOLUME}")
    strange = [
        Target(2, f"{prefix}volume-{OTHER_VOLUME}", "/elsewhere/volume"),
        Target(3, f"iqn.2000-01.other:volume-{OTHER_VOLUME}", f"{tmp_path}/volume-{OTHER_VOLUME}"),
        Target(4, f"{prefix}something", f"{tmp_path}/something"),
        Target(5, f"{prefix}volume-{OTHER_VOLUME}"),
    ]
    daemon.targets.return_value = {each.name: each for each in (mine, *strange[1:])}
    assert targets(tmp_path, daemon=daemon).given(tmp_path) == {VOLUME: mine}
    daemon.targets.return_value = {each.name: each for each in (mine, strange[0])}
    assert targets(tmp_path, daemon=daemon).given(tmp_path) == {VOLUME: mine}


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("share_dir", None, "share_dir"),
        ("target_ip_address", "storage.example.org", "target_ip_address"),
        ("target_prefix", "iqn.2010-10.org.openstack", "target_prefix"),
        ("target_prefix", "iqn.2010-10.org.openstack:a,b", "target_prefix"),
    ],
)
def test_an_option_that_cannot_be_is_refused_when_it_is_loaded(option: str, value: str | None, told: str) -> None:
    section = Mock(share_dir="/srv/share", target_ip_address="192.0.2.1", target_prefix="iqn.2010-10.org.openstack:")
    assert [each.export for each in iscsi.shares(section)] == ["/srv/share"]
    setattr(section, option, value)
    with pytest.raises(BadConfiguration, match=told):
        iscsi.shares(section)

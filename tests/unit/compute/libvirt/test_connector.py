"""What block storage is told of this host."""

import stat
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.compute.libvirt import connector
from stillframe.errors import BadConfiguration
from stillframe.host import addresses
from tests.unit.builders import settings

NAME = "iqn.1993-08.org.debian:01:0123456789ab"


def configured(state_dir: Path, **options: Any) -> Any:
    known = {"iscsi_initiator_name": None, "my_block_storage_ip": None, **options}
    return replace(settings(state_dir), compute=SimpleNamespace(**known))


def test_the_initiators_name_is_made_once_and_kept_private(tmp_path: Path) -> None:
    made = connector.initiator(configured(tmp_path))
    assert made.startswith("iqn.2008-11.org.linux-kvm:")
    assert connector.initiator(configured(tmp_path)) == made
    file = tmp_path / "initiatorname.iscsi"
    assert file.read_text() == f"InitiatorName={made}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_two_installations_have_two_names(tmp_path: Path) -> None:
    names = set()
    for each in ("a", "b"):
        (tmp_path / each).mkdir()
        names.add(connector.initiator(configured(tmp_path / each)))
    assert len(names) == 2


def test_a_configured_name_is_taken_as_it_is(tmp_path: Path) -> None:
    assert connector.initiator(configured(tmp_path, iscsi_initiator_name=NAME)) == NAME
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["somebody", "iqn.2010-10.org:a'/><x", "iqn.2010-10.Org:a", f"{NAME}\n"])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadConfiguration, match="iscsi_initiator_name"):
        connector.initiator(configured(tmp_path, iscsi_initiator_name=name))
    (tmp_path / "initiatorname.iscsi").write_text("InitiatorName=../x\n")
    with pytest.raises(BadConfiguration, match=r"initiatorname\.iscsi"):
        connector.initiator(configured(tmp_path))


def test_the_connector_has_what_cinders_drivers_ask_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "own", lambda: "192.0.2.20")
    known = connector.properties(configured(tmp_path, iscsi_initiator_name=NAME), "vdc")
    expected = {"host": "here", "ip": "192.0.2.20", "initiator": NAME, "mountpoint": "/dev/vdc", "multipath": False}
    assert known == {**expected, "platform": "x86_64", "os_type": "linux"}
    other = configured(tmp_path, iscsi_initiator_name=NAME, my_block_storage_ip="198.51.100.1")
    assert connector.properties(other, "vdc")["ip"] == "198.51.100.1"

"""Secret objects: what libvirt is told, and that no value is where somebody could read it."""

from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from stillframe.errors import HypervisorRefused
from stillframe.host import libvirt_secrets
from stillframe.host.libvirt_secrets import Secret
from tests.unit.builders import VOLUME

SECRET = Secret(VOLUME, "stillframe <a> b", "canary-of-a-password")


class Connection:
    """libvirt's secrets, by id."""

    def __init__(self) -> None:
        self.defined: list[str] = []
        self.values: list[bytes] = []
        self.missing: int | None = None

    def secretDefineXML(self, xml: str) -> Any:
        self.defined.append(xml)
        return SimpleNamespace(setValue=self.values.append)

    def secretLookupByUUIDString(self, id_: str) -> Any:
        if self.missing is not None:
            error = libvirt.libvirtError("no")
            error.err = (self.missing, 0, "no secret", 0, "", None, None, 0, 0)
            raise error
        return SimpleNamespace(undefine=self.values.clear)

    def listAllSecrets(self) -> list[Any]:
        def secret(id_: str, usage: str, kind: int) -> Any:
            return SimpleNamespace(UUIDString=lambda: id_, usageID=lambda: usage, usageType=lambda: kind)

        return [
            secret("a", "ours", libvirt.VIR_SECRET_USAGE_TYPE_ISCSI),
            secret("b", "/a/volume", libvirt.VIR_SECRET_USAGE_TYPE_VOLUME),
        ]


@pytest.fixture
def connection() -> Connection:
    return Connection()


@pytest.fixture
def hypervisor(connection: Connection) -> Any:
    return SimpleNamespace(connection=lambda: connection)


def test_a_secret_lies_in_memory_and_is_told_to_nobody(hypervisor: Any, connection: Connection) -> None:
    libvirt_secrets.define(hypervisor, SECRET)
    (xml,) = connection.defined
    assert "ephemeral='yes'" in xml and "private='yes'" in xml and f"<uuid>{VOLUME}</uuid>" in xml
    assert "<target>stillframe &lt;a&gt; b</target>" in xml
    assert SECRET.value not in xml + repr(SECRET)
    assert connection.values == [SECRET.value.encode()]


def test_one_that_is_not_there_is_removed(hypervisor: Any, connection: Connection) -> None:
    connection.values.append(b"x")
    libvirt_secrets.remove(hypervisor, VOLUME)
    assert connection.values == []
    connection.missing = libvirt.VIR_ERR_NO_SECRET
    libvirt_secrets.remove(hypervisor, VOLUME)
    connection.missing = libvirt.VIR_ERR_CONFIG_UNSUPPORTED
    with pytest.raises(HypervisorRefused):
        libvirt_secrets.remove(hypervisor, VOLUME)


def test_other_peoples_kinds_are_not_listed(hypervisor: Any) -> None:
    assert libvirt_secrets.usages(hypervisor) == {"a": "ours"}

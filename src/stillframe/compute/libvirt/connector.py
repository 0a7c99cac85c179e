"""What block storage is told of this host, so that a target lets it in: Cinder's connector."""

import re
import secrets
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from stillframe.config import Settings
from stillframe.errors import BadConfiguration
from stillframe.host import addresses, files

_FILE = "initiatorname.iscsi"  # in the form of open-iscsi's
_PREFIX = "iqn.2008-11.org.linux-kvm:"  # QEMU's own (qemu 7.2, block/iscsi.c)
_NAME = re.compile(r"iqn\.[0-9]{4}-[0-9]{2}\.[a-z0-9.:-]{1,210}")
_turn = threading.Lock()


def properties(settings: Settings, target: str) -> dict[str, Any]:
    """Returns the connector for a disk named ``target`` in its server."""
    return {
        "host": settings.host,
        "ip": settings.compute.my_block_storage_ip or addresses.own(),
        "initiator": initiator(settings),
        "platform": "x86_64",
        "os_type": "linux",
        "multipath": False,
        "mountpoint": f"/dev/{target}",
    }


def initiator(settings: Settings) -> str:
    """Returns the name by which QEMU logs in at iSCSI targets: the configured one, else one of this installation, made on first
    use and kept in the state directory. Raises BadConfiguration for one that is none."""
    configured = settings.compute.iscsi_initiator_name
    if configured:
        return _checked(configured, "iscsi_initiator_name")
    with _turn:
        with suppress(FileNotFoundError):
            return _kept(settings.state_dir / _FILE)
        made = _PREFIX + secrets.token_hex(6)
        files.write_bytes(settings.state_dir, _FILE, f"InitiatorName={made}\n".encode(), 0o600)
        return made


def _kept(path: Path) -> str:
    return _checked(path.read_text().strip().removeprefix("InitiatorName="), str(path))


def _checked(name: str, where: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadConfiguration(f"{where}: {name[:80]!r} is no iSCSI name, such as {_PREFIX}0123456789ab")
    return name

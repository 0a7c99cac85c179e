"""iSCSI targets: one for each volume that is attached, for the initiator and the account of its attachment.

An account's password is made from the attachment's id and a key that lies in the state directory: each attachment has another
one, none is stored, and a target can be made again after the daemon has lost it.
"""

import hashlib
import hmac
import ipaddress
import re
import secrets
import threading
from base64 import b32encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillframe.chain import names
from stillframe.errors import BadRequest
from stillframe.host import files, tgt

_KEY_BYTES = 32
_PASSWORD_LETTERS = 16  # 80 bits; some initiators take no more than 16
_INITIATOR = re.compile(r"(?:iqn\.[0-9]{4}-[0-9]{2}\.[A-Za-z0-9.:-]+|(?:eui|naa)\.[0-9A-Fa-f]{16,32})")
_turn = threading.Lock()  # two backends may make the key at once
_LONGEST_INITIATOR = 223  # RFC 3720, 3.2.6.1


@dataclass(frozen=True)
class Portal:
    """Where hypervisors reach the daemon, and what its targets' names begin with."""

    address: str
    port: int
    prefix: str

    def __str__(self) -> str:
        host = f"[{self.address}]" if ipaddress.ip_address(self.address).version == 6 else self.address
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class Held:
    """Whom a volume is given out to: an attachment, and the name of its initiator."""

    attachment_id: str
    initiator: str


def initiator_of(connector: Mapping[str, Any] | None) -> str:
    """Returns the initiator's name from a connector. Raises BadRequest when it has none."""
    found = (connector or {}).get("initiator")
    if not isinstance(found, str) or len(found) > _LONGEST_INITIATOR or not _INITIATOR.fullmatch(found):
        raise BadRequest(
            "Invalid connector: it has no initiator, the iSCSI name of the host that is to reach the volume, such as"
            " iqn.1993-08.org.debian:01:0123456789ab"
        )
    return found


class Targets:
    """The targets of one backend. All methods that ask the daemon raise TargetUnavailable."""

    def __init__(self, daemon: tgt.Daemon, portal: Portal, key_file: Path) -> None:
        self._daemon = daemon
        self._portal = portal
        self._key_file = key_file

    def name(self, volume_id: str) -> str:
        return f"{self._portal.prefix}{names.base_name(volume_id)}"

    def connection_info(self, volume_id: str, held: Held) -> dict[str, Any]:
        """Returns what an initiator needs, as Cinder's attachments show it: ``data`` of initialize_connection laid flat. The
        keys that begin with ``auth_`` are secrets."""
        return {
            "driver_volume_type": "iscsi",
            "target_discovered": False,
            "target_portal": str(self._portal),
            "target_iqn": self.name(volume_id),
            "target_lun": tgt.LUN,
            "volume_id": volume_id,
            "auth_method": "CHAP",
            "auth_username": self._user(held.attachment_id),
            "auth_password": self._password(held.attachment_id),
            "discard": True,
        }

    def give(self, volume_id: str, path: Path, size: int, held: Held) -> None:
        """Gives the file of ``size`` bytes out to ``held`` alone; whoever else is connected is cut off. May be repeated."""
        serial = volume_id.replace("-", "")
        user, password = self._user(held.attachment_id), self._password(held.attachment_id)
        self._daemon.export(tgt.Export(self.name(volume_id), path, size, serial, held.initiator, user, password))

    def is_as_wanted(self, found: tgt.Target | None, path: Path, size: int, held: Held) -> bool:
        """Tells whether a target, as ``given`` found it, is what ``give`` would make."""
        if found is None or not found.has_size(size):
            return False
        return (found.path, found.accounts, found.initiators) == (
            str(path),
            (self._user(held.attachment_id),),
            (held.initiator,),
        )

    def withdraw(self, volume_id: str) -> None:
        """Gives the volume out to nobody. May be repeated."""
        self._daemon.withdraw(self.name(volume_id))

    def sessions(self, volume_id: str) -> tuple[str, ...]:
        """Returns the initiators that are connected to the volume, in words."""
        found = self._daemon.targets().get(self.name(volume_id))
        return found.sessions if found else ()

    def given(self, directory: Path) -> dict[str, tgt.Target]:
        """Returns, by volume, the targets of this backend whose file lies in the directory."""
        found: dict[str, tgt.Target] = {}
        for name, target in self._daemon.targets().items():
            parsed = names.parse(name.removeprefix(self._portal.prefix)) if name.startswith(self._portal.prefix) else None
            if parsed and target.path is not None and Path(target.path).parent == directory:
                found[parsed[0]] = target
        return found

    def _user(self, attachment_id: str) -> str:
        return attachment_id.replace("-", "")

    def _password(self, attachment_id: str) -> str:
        made = hmac.new(self._key(), f"chap {attachment_id}".encode(), hashlib.sha256).digest()
        return b32encode(made).decode()[:_PASSWORD_LETTERS]

    def _key(self) -> bytes:
        """Made on first use. When it is lost, volumes that are attached get other passwords: sessions stay, but none is begun
        again until its volume is attached anew."""
        with suppress(FileNotFoundError):
            return self._key_file.read_bytes()
        with _turn:
            if not self._key_file.exists():
                files.write_bytes(self._key_file.parent, self._key_file.name, secrets.token_bytes(_KEY_BYTES), 0o600)
        return self._key_file.read_bytes()

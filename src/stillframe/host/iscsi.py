"""Logs in at an iSCSI target as QEMU will, in a separate process.

While QEMU connects it does nothing else, so its guest stops for as long as a target keeps silent (F43). That is why we try
first.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stillframe.errors import HostCommandFailed, NotInstalled, StillframeError, TargetRefused, TargetUnreachable
from stillframe.host import image_command
from stillframe.host.image_command import Login
from stillframe.host.run import attempt, explain

SECONDS = 10.0
# What libiscsi 1.19 says (lib/login.c, block/iscsi.c of qemu 7.2), always after "iSCSI: Failed to connect to LUN".
_REFUSED = {
    "Authentication failure": "it does not accept the name and the password of the attachment",
    "Authorization failure": "it does not let this host's initiator in",
}
_ABSENT = {
    "Target not found": "it has no such target for this host's initiator",
    "Target removed": "the target was removed",
    "LOGICAL_UNIT_NOT_SUPPORTED": "the target has no such logical unit",
}
_NO_DRIVER = ("Unknown driver 'iscsi'", "Unknown protocol 'iscsi'")


@dataclass(frozen=True)
class Unit:
    """One logical unit, and the name of the initiator that logs in there. ``user`` None: it logs in without a password."""

    portal: str
    target: str
    lun: int
    initiator: str
    user: str | None = None


def size_of(unit: Unit, password: str | None) -> int:
    """Logs in and returns the size of the unit in bytes. The password is on no command line and in no file.

    Raises TargetUnreachable when the portal does not answer in time or has no such unit for us, TargetRefused when it does not
    accept the password, NotInstalled when QEMU lacks its driver.
    """
    with login(unit, password) as named:
        command = image_command.login(named)
        try:
            outcome = attempt(command, cwd=Path("/"), limits=image_command.limits(1, seconds=SECONDS))
        except HostCommandFailed as error:
            if error.details.get("timed_out"):
                raise TargetUnreachable(f"iSCSI portal {unit.portal} does not answer within {SECONDS:g} s") from error
            raise
    if outcome.code != 0:
        raise _failure(unit, outcome.complaint, explain(command, outcome))
    return int(json.loads(outcome.output)["virtual-size"])


@contextmanager
def login(unit: Unit, password: str | None) -> Iterator[Login]:
    """Yields the name of the unit for a command line, while the password can be read."""
    with _readable(password) as file:
        account = (unit.user, file) if unit.user is not None and file is not None else None
        yield Login(unit.portal, unit.target, unit.lun, unit.initiator, account)


@contextmanager
def _readable(password: str | None) -> Iterator[str | None]:
    """Yields a path from which a program of this user reads the password: it is in our memory."""
    if password is None:
        yield None
        return
    handle = os.memfd_create("chap", os.MFD_CLOEXEC)
    try:
        os.write(handle, password.encode())
        yield f"/proc/{os.getpid()}/fd/{handle}"
    finally:
        os.close(handle)


def _failure(unit: Unit, complaint: str, words: str) -> StillframeError:
    where = f"iSCSI target {unit.target}, logical unit {unit.lun}, at {unit.portal}"
    if any(each in complaint for each in _NO_DRIVER):
        return NotInstalled("QEMU's iSCSI driver is not installed on this host (Debian's package qemu-block-extra)")
    for said, meaning in _REFUSED.items():
        if said in complaint:
            return TargetRefused(f"{where}: {meaning}")
    absent = next((meaning for said, meaning in _ABSENT.items() if said in complaint), None)
    if absent is None and "Failed to connect to LUN" in complaint:
        absent = "the portal does not answer, or closed the connection"
    return TargetUnreachable(f"{where}: {absent or words}")

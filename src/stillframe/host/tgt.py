"""Talks to a ``tgtd`` of this host through its management socket, in the protocol of tgtadm (tgt 1.0.85).

tgtadm itself is not started, nor is tgt-admin, which starts it: both put CHAP passwords on a command line, and everybody on the
host can read that in ``/proc``. tgtd answers only root (F47). It keeps its configuration in memory: after a restart it knows
nothing.
"""

import re
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from stillframe.errors import TargetUnavailable

_MB = 10**6
LUN = 1  # 0 is the controller that tgtd creates by itself
_TARGET, _UNIT, _ACCOUNT = 1, 2, 7  # enum tgtadm_mode
_NEW, _DELETE, _SHOW, _BIND, _UPDATE = 0, 1, 2, 3, 5  # enum tgtadm_op
_REQUEST = struct.Struct("=II64sIiQQIIIIII")  # struct tgtadm_req: 120 bytes, no gaps on 64 bit
_ANSWER = struct.Struct("=II")  # struct tgtadm_rsp: error, length with this head
_NO_LUN = (1 << 64) - 1
_SECONDS = 10.0
_MOST_ANSWER = 64 << 20
_NO_TARGET, _USER_EXISTS, _NO_USER, _TARGET_ACTIVE, _UNIT_ACTIVE = 4, 14, 15, 19, 20  # enum tgtadm_errno, as observed
_ERRORS = {
    2: "it has no memory left",
    _NO_TARGET: "there is no such target or logical unit",
    9: "the target exists already",
    10: "the logical unit exists already",
    12: "the initiator is allowed already",
    _USER_EXISTS: "the account exists already",
    _NO_USER: "there is no such account",
    17: "the request is not valid, or the file cannot be opened",
    _TARGET_ACTIVE: "the target is in use",
    _UNIT_ACTIVE: "the logical unit is in use",
}
_DRAIN_SECONDS, _LOOK_SECONDS = 5.0, 0.01  # how long requests may take that were under way when the sessions were ended
_PLAIN = re.compile(r"[A-Za-z0-9._:/+@ -]+")  # a comma would start another parameter
_LINES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("target", re.compile(r"Target (\d+): (.+)")),
    ("initiator", re.compile(r" +Initiator: (.+) alias: .*")),
    ("address", re.compile(r" +IP Address: (.+)")),
    ("size", re.compile(r" +Size: (\d+) MB, Block size: (?!1$)\d+")),
    ("path", re.compile(r" +Backing store path: (/.+)")),
    ("heading", re.compile(r"    (\S.*):")),
    ("entry", re.compile(r"        (\S+)")),
)


@dataclass(frozen=True)
class Export:
    """What a target exports: one file of ``size`` bytes as its only disk, to one initiator, with CHAP."""

    name: str  # the target's IQN
    path: Path
    size: int
    serial: str
    initiator: str
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Target:
    """A target as tgtd shows it. ``sessions`` describe the connected initiators in words; ``size_mb`` is rounded: tgt 1.0.85
    rounds to the nearest MB, others round down."""

    tid: int
    name: str
    path: str | None = None
    size_mb: int = 0
    accounts: tuple[str, ...] = ()
    initiators: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()

    def gives(self, wanted: Export) -> bool:
        """Tells whether the target exports that file to that initiator and account, whatever size it reports for it."""
        found = (self.path, self.accounts, self.initiators)
        return found == (str(wanted.path), (wanted.user,), (wanted.initiator,))

    def has_size(self, size: int) -> bool:
        """Tells whether the target may have so many bytes. A volume grows by a GiB at least, which is never missed."""
        return abs(self.size_mb * _MB - size) < _MB


class _Refused(Exception):
    def __init__(self, error: int) -> None:
        super().__init__(_ERRORS.get(error, f"error {error}"))
        self.error = error


class Daemon:
    """One tgtd, by its management socket. Every call raises TargetUnavailable when it does not answer or refuses."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.Lock()  # held from a look to the change that follows it

    def targets(self) -> Mapping[str, Target]:
        """Returns all targets by name, including those of others."""
        with self._refusals("show its targets"):
            return parse(self._ask(_TARGET, _SHOW).decode("utf-8", errors="replace"))

    def pid(self) -> int:
        """Returns the process that listens on the socket."""
        with self._connected() as link:
            return int(struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))[0])

    def export(self, wanted: Export) -> None:
        """Creates the target, or changes it to what is wanted. May be repeated.

        A target with another file, size, account or initiator is removed and created again, which ends its sessions. An
        initiator that may still connect does so at once, and repeats the requests that were not answered. tgtd can also reopen
        the file under a session (online=0,path=...,online=1), but then writes that are under way sometimes fail, with EIO for
        the guest (F46).
        """
        with self._turn, self._refusals(f"export {wanted.path.name}"):
            found = self.targets().get(wanted.name)
            if found is not None and found.gives(wanted) and found.has_size(wanted.size):
                return
            if found is not None:
                self._drop(found)
            self._make(wanted)

    def withdraw(self, name: str) -> None:
        """Removes a target with its account; connected initiators are cut off. May be repeated."""
        with self._turn, self._refusals(f"remove the target {name}"):
            found = self.targets().get(name)
            if found is not None:
                self._drop(found)

    def _make(self, wanted: Export) -> None:
        tid = max((each.tid for each in self.targets().values()), default=0) + 1
        self._ask(_TARGET, _NEW, tid, params=f"targetname={_plain(wanted.name)}")
        made = Target(tid, wanted.name, accounts=(wanted.user,))
        try:
            self._ask(_UNIT, _NEW, tid, params=f"path={_plain(str(wanted.path))}")
            about = f"scsi_sn={wanted.serial},product_id=VOLUME,vendor_id=STLFRAME,thin_provisioning=1,"
            self._ask(_UNIT, _UPDATE, tid, params=f"targetOps {about}")
            self._account(wanted)
            self._ask(_ACCOUNT, _BIND, tid, params=f"user={wanted.user}")
            # Last, because nobody may connect until this list has an entry.
            self._ask(_TARGET, _BIND, tid, params=f"initiator-name={_plain(wanted.initiator)}")
        except BaseException:
            self._drop(made)
            raise

    def _account(self, wanted: Export) -> None:
        words = f"user={_plain(wanted.user)},password={_plain(wanted.password)}"
        try:
            self._ask(_ACCOUNT, _NEW, params=words)
        except _Refused as refused:
            if refused.error != _USER_EXISTS:
                raise
            self._ask(_ACCOUNT, _DELETE, params=f"user={wanted.user}")
            self._ask(_ACCOUNT, _NEW, params=words)

    def _drop(self, found: Target) -> None:
        """Ends the sessions, and waits for the requests they had under way: until then the unit cannot be removed."""
        end = time.monotonic() + _DRAIN_SECONDS
        while True:
            try:
                return self._remove(found)
            except _Refused as refused:
                if refused.error not in (_TARGET_ACTIVE, _UNIT_ACTIVE) or time.monotonic() > end:
                    raise
            time.sleep(_LOOK_SECONDS)

    def _remove(self, found: Target) -> None:
        for mode, tid, params, gone in (
            (_TARGET, found.tid, "", _NO_TARGET),
            *((_ACCOUNT, -1, f"user={each}", _NO_USER) for each in found.accounts),
        ):
            try:
                self._ask(mode, _DELETE, tid, params, force=mode == _TARGET)
            except _Refused as refused:
                if refused.error != gone:
                    raise

    def _ask(self, mode: int, op: int, tid: int = -1, params: str = "", force: bool = False) -> bytes:
        """Sends one request and returns the text of the answer. Raises _Refused, which repeats no part of the request."""
        data = params.encode() + b"\0" if params else b""
        lun = LUN if mode == _UNIT else _NO_LUN
        head = _REQUEST.pack(mode, op, b"iscsi", _REQUEST.size + len(data), tid, 0, lun, 0, 0, 0, 0, 0, int(force))
        with self._connected() as link:
            link.sendall(head + data)
            error, length = _ANSWER.unpack(_received(link, _ANSWER.size))
            text = _received(link, min(length, _MOST_ANSWER) - _ANSWER.size) if not error else b""
        if error:
            raise _Refused(error)
        return text

    @contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as link:
                link.settimeout(_SECONDS)
                link.connect(str(self._path))
                yield link
        except OSError as error:
            why = error.strerror or str(error) or type(error).__name__
            raise TargetUnavailable(f"the iSCSI target daemon does not answer at {self._path}: {why}") from error

    @contextmanager
    def _refusals(self, doing: str) -> Iterator[None]:
        try:
            yield
        except _Refused as refused:
            raise TargetUnavailable(f"the iSCSI target daemon could not {doing}: {refused}") from refused


def _received(link: socket.socket, length: int) -> bytes:
    found = bytearray()
    while len(found) < length:
        part = link.recv(min(1 << 16, length - len(found)))
        if not part:
            raise ConnectionResetError(0, "it closed the connection before its answer was complete")
        found += part
    return bytes(found)


def _plain(text: str) -> str:
    if not _PLAIN.fullmatch(text):
        raise TargetUnavailable(
            "the name of a file, target or initiator has a character that the iSCSI target daemon does not accept"
        )
    return text


def parse(text: str) -> Mapping[str, Target]:
    """Reads the output of ``tgtadm --op show --mode target``; returns the targets by name."""
    found: dict[str, Target] = {}
    current, heading = Target(0, ""), ""
    for line in text.splitlines():
        kind, words = _line(line)
        if kind == "target":
            current = Target(int(words[0]), words[1])
        elif kind == "heading":
            heading = words[0]
        else:
            current = _with(current, kind, words, heading)
        if current.name:
            found[current.name] = current
    return found


def _line(line: str) -> tuple[str, tuple[str, ...]]:
    for kind, pattern in _LINES:
        match = pattern.fullmatch(line)
        if match:
            return kind, match.groups()
    return "", ()


def _with(target: Target, kind: str, words: tuple[str, ...], heading: str) -> Target:
    if kind == "initiator":
        return replace(target, sessions=(*target.sessions, words[0]))
    if kind == "address" and target.sessions:
        return replace(target, sessions=(*target.sessions[:-1], f"{target.sessions[-1]} at {words[0]}"))
    if kind == "size":
        return replace(target, size_mb=int(words[0]))
    if kind == "path":
        return replace(target, path=words[0])
    if kind == "entry" and heading == "Account information":
        return replace(target, accounts=(*target.accounts, words[0]))
    if kind == "entry" and heading == "ACL information":
        return replace(target, initiators=(*target.initiators, words[0]))
    return target

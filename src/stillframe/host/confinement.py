"""Runs programs that may open only the files they were given, and no other file of the host (Landlock, Linux 5.13 and later).

A user who may write to an image may change its header after we have checked it and before QEMU reads it. A header may name any
file of the host, or a server, as the place of its data, and no option of QEMU forbids that (qemu 7.2, qcow2_do_open). So the
kernel does.

Landlock binds the thread that asks for it, and everything that thread starts, for good. So each program gets a thread of its
own. The thread lives as long as the program, because a program dies with the thread that started it (prctl(2)).
"""

import ctypes
import errno
import logging
import os
import struct
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

LOG = logging.getLogger(__name__)
_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every architecture (asm-generic/unistd.h)
_NO_NEW_PRIVILEGES = 38  # linux/prctl.h
_BENEATH, _VERSION = 1, 1
# linux/landlock.h, by the version that knows them: execute, write, read a file; what makes, removes and lists names.
_EXECUTE, _WRITE, _READ, _LIST, _REMOVE_FILE, _MAKE_FILE, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8, 1 << 14
_ALL = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP_SINCE, _BIND_CONNECT = 4, 3
_SCOPES_SINCE, _SOCKETS_SIGNALS = 6, 3
_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SETTINGS = (
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/gnutls",
    "/etc/crypto-policies",
    "/etc/ssl/openssl.cnf",
    "/etc/qemu",
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_libc = ctypes.CDLL(None, use_errno=True)
_reported = threading.Event()

Made = TypeVar("Made")


class Confined(Generic[Made]):
    """Calls ``make`` in a thread that may open the open files ``handles``, what is in ``directory``, and the system's programs
    and libraries. ``end`` ends the thread, and whatever was started in it dies."""

    def __init__(self, directory: Path, handles: Sequence[int], make: Callable[[], Made]) -> None:
        """Raises what ``make`` raises. Without Landlock ``make`` is called all the same, and the log says so once."""
        self._over = threading.Event()
        found: Future[Made] = Future()
        arguments = (found, directory, tuple(handles), make)
        self._thread = threading.Thread(target=self._run, args=arguments, name="confined", daemon=True)
        self._thread.start()
        self.made = found.result()

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self, found: "Future[Made]", directory: Path, handles: Sequence[int], make: Callable[[], Made]) -> None:
        try:
            try:
                _restrict(directory, handles)
            except OSError as error:
                _tell_once(error)
            found.set_result(make())
        except BaseException as error:
            found.set_exception(error)
            return
        self._over.wait()


def _tell_once(error: OSError) -> None:
    if not _reported.is_set():
        _reported.set()
        LOG.warning("Landlock does not work, so nothing keeps qemu-img from other files of this host: %s", error.strerror)


def version() -> int:
    """Returns the kernel's version of Landlock; 0 if it has none."""
    return max(0, int(_libc.syscall(_CREATE, None, ctypes.c_long(0), ctypes.c_long(_VERSION))))


def _restrict(directory: Path, handles: Sequence[int]) -> None:
    """Binds the calling thread. Raises OSError where the kernel cannot."""
    known = version()
    if not known:
        raise OSError(errno.EOPNOTSUPP, "the kernel has none, or it is switched off")
    handled = _ALL[min(known, max(_ALL))]
    network = _BIND_CONNECT if known >= _TCP_SINCE else 0
    scopes = _SOCKETS_SIGNALS if known >= _SCOPES_SINCE else 0
    attributes = struct.pack("=QQQ", handled, network, scopes)[: 24 if scopes else 16 if network else 8]
    ruleset = _call(_CREATE, attributes, len(attributes), 0)
    try:
        for path in (*_PROGRAMS, *_SETTINGS):
            _allow_path(ruleset, path, handled & (_EXECUTE | _READ | _LIST))
        for path in _DEVICES:
            _allow_path(ruleset, path, handled & (_READ | _WRITE | _TRUNCATE))
        _allow_path(ruleset, str(directory), handled & (_READ | _WRITE | _TRUNCATE | _LIST | _MAKE_FILE | _REMOVE_FILE))
        for handle in handles:
            _allow(ruleset, handle, handled & (_READ | _WRITE | _TRUNCATE))
        if _libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        _call(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow_path(ruleset: int, path: str, access: int) -> None:
    with suppress(FileNotFoundError):
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            _allow(ruleset, handle, access)
        finally:
            os.close(handle)


def _allow(ruleset: int, handle: int, access: int) -> None:
    if not os.path.isdir(f"/proc/self/fd/{handle}"):
        access &= _EXECUTE | _READ | _WRITE | _TRUNCATE
    _call(_ADD, ruleset, _BENEATH, struct.pack("=Qi", access, handle), 0)


def _call(number: int, *arguments: object) -> int:
    whole = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]  # a register's width
    found = int(_libc.syscall(number, *whole))
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found

"""Runs a libvirt daemon of our own: the same program with separate directories, so that it never meets the host's libvirt.

A daemon that root runs uses fixed paths (/run/libvirt, /var/lib/libvirt, ...), so it gets a mount namespace in which those
paths are directories below the state directory. Its socket is reached from outside at ``<dir>/run/libvirt-sock``. Guests
outlive the daemon, and the next daemon takes them over, as with any libvirt.
"""

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from stillframe.errors import BadConfiguration, HypervisorUnavailable
from stillframe.host.hypervisor import Hypervisor

_BINDS = {
    "/run/libvirt": "run",
    "/var/lib/libvirt": "lib",
    "/var/cache/libvirt": "cache",
    "/var/log/libvirt": "log",
    "/etc/libvirt": "etc",
}
_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_SLAVE = 0x20000, 4096, 16384, 1 << 19
_QEMU_CONF = """\
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
stdio_handler = "file"
namespaces = []
cgroup_controllers = []
"""
_START_LOG = "log/start.log"  # what libvirtd writes before it has its own log
_MOST_STOPS, _STOP_PAUSE = 5, 0.1  # seconds
_SOCKET_BYTES = 107  # sun_path of Linux, see unix(7), less the NUL that ends it
_DAEMON_CONF = """\
auth_unix_rw = "none"
unix_sock_ro_perms = "0600"
unix_sock_rw_perms = "0600"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""


def uri(directory: Path) -> str:
    """Returns the daemon's URI. Characters that a directory's name may have (a space, ``&``, ``%``) mean something else in a
    URI, so they are escaped."""
    return f"qemu+unix:///system?socket={quote(f'{directory}/run/libvirt-sock')}"


def start(directory: Path) -> int:
    """Starts the daemon unless it already runs. Returns its pid once its socket answers. Raises HypervisorUnavailable."""
    if os.geteuid() != 0:
        raise BadConfiguration("a private libvirt daemon needs root; name a daemon with --libvirt-uri instead")
    if len(os.fsencode(directory / "run/libvirt-sock")) > _SOCKET_BYTES:
        raise BadConfiguration(
            f"{directory} is too long for a socket below it ({_SOCKET_BYTES} bytes): use a shorter state_dir"
        )
    for name in _BINDS.values():
        (directory / name).mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        # The worker and its watchdog may both find the daemon dead; one of them starts it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _start(directory)


def connect(directory: Path) -> Hypervisor:
    """Returns a connection that restarts the daemon when it is gone."""
    return Hypervisor(uri(directory), lambda: start(directory))


def _start(directory: Path) -> int:
    (directory / "etc/qemu.conf").write_text(_QEMU_CONF)
    (directory / "etc/libvirtd.conf").write_text(_DAEMON_CONF + f'host_uuid = "{_host_uuid(directory)}"\n')
    if _pid(directory) is not None:
        return _wait(directory)
    (directory / "run/libvirt-sock").unlink(missing_ok=True)
    with (directory / _START_LOG).open("wb") as said:
        daemon = subprocess.Popen(
            [sys.executable, "-m", __name__, str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    return _wait(directory, daemon)


def stop(directory: Path) -> None:
    """Ends the daemon that ``start`` started, and any that the watchdog or a reconnecting thread starts meanwhile. Guests keep
    running. Raises HypervisorUnavailable when the daemon is started again and again."""
    if not directory.is_dir():
        return
    for number in range(_MOST_STOPS):
        time.sleep(_STOP_PAUSE if number else 0)  # so that a thread that waits for the lock can start the next one
        with (directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            pid = _pid(directory)
            if pid is None:
                return
            _end(directory, pid)
    raise HypervisorUnavailable(
        f"the libvirt daemon of {directory} was stopped {_MOST_STOPS} times, and was started again each time: stop the services"
        " that use it first"
    )


def _end(directory: Path, pid: int) -> None:
    for number, looks in ((signal.SIGTERM, 100), (signal.SIGKILL, 20)):
        with suppress(ProcessLookupError):  # it may end by itself between the check and the signal
            os.kill(pid, number)
        with suppress(ChildProcessError):  # it is our child only if this process started it
            if _ended(directory, pid, looks):
                os.waitpid(pid, 0)
                return


def _ended(directory: Path, pid: int, looks: int) -> bool:
    for _ in range(looks):
        if _pid(directory) != pid:
            return True
        time.sleep(0.05)
    return False


def _host_uuid(directory: Path) -> str:
    path = directory / "host-uuid"
    if not path.exists():
        path.write_text(Path("/proc/sys/kernel/random/uuid").read_text().strip())
    return path.read_text()


def _pid(directory: Path) -> int | None:
    try:
        pid = int((directory / "run/libvirtd.pid").read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if words and words[0].endswith(b"libvirtd") and f"{directory}".encode() in b" ".join(words) else None


def _wait(directory: Path, daemon: subprocess.Popen[bytes] | None = None) -> int:
    """Waits for the socket, or for the end of ``daemon``, whose last output the error then quotes."""
    for _ in range(600):  # half a minute, for a busy machine
        pid = _pid(directory)
        if pid is not None and _listens(directory / "run/libvirt-sock"):
            return pid
        if daemon is not None and daemon.poll() is not None:
            said = (directory / _START_LOG).read_text(errors="replace").strip().splitlines()
            why = said[-1] if said else f"exit status {daemon.returncode}"
            raise HypervisorUnavailable(f"libvirtd did not start: {why} (its output: {directory / _START_LOG})")
        time.sleep(0.05)
    raise HypervisorUnavailable(f"libvirtd does not answer after 30 s; see {directory}/log/libvirtd.log")


def _listens(path: Path) -> bool:
    """Tells whether somebody accepts connections: the socket's file exists a moment before the daemon listens."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _become_daemon(directory: Path) -> None:
    """Enters a mount namespace with our directories in place of libvirt's, then becomes libvirtd."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise _failed(f"a mount namespace for {directory}")
    if libc.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None) != 0:
        # EINVAL: the root of a plain chroot is often not a mount point; `mount --bind R R` before chroot makes it one.
        raise _failed("mount --make-rslave / (the root directory must be a mount point)")
    for place, name in _BINDS.items():
        Path(place).mkdir(parents=True, exist_ok=True)
        if libc.mount(str(directory / name).encode(), place.encode(), None, _MS_BIND, None) != 0:
            raise _failed(f"mount {directory / name} on {place}")
    arguments = ["libvirtd", "-f", "/etc/libvirt/libvirtd.conf", "-p", f"{directory}/run/libvirtd.pid"]
    os.execv("/usr/sbin/libvirtd", arguments)  # noqa: S606 a fixed program, and this process becomes it


def _failed(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)


if __name__ == "__main__":
    _become_daemon(Path(sys.argv[1]))

"""A real GlusterFS: server, bricks and a mounted volume, all below one directory.

glusterd refuses loopback addresses, so it lives in a network namespace of its own, joined to ours by a veth pair: the
services under test reach it as they would reach another host. Needs root; the host's own GlusterFS, if there is one, is
not touched. GlusterFS 10.3 writes logs of bricks below /var/log/glusterfs whatever it is told; all else lies below the
directory.
"""

import ipaddress
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from stillframe.host import mounts

VOLUME = "volumes"
_SECONDS = 60.0
_PROGRAMS = {
    "glusterd": "glusterfs-server",
    "gluster": "glusterfs-server",
    "mount.glusterfs": "glusterfs-client",
    "ip": "iproute2",
}


@dataclass
class Gluster:
    """A volume that runs and is mounted. ``path`` is where; ``export`` and ``options`` are how."""

    directory: Path
    address: str
    holder: int
    bricks: int

    @property
    def export(self) -> str:
        return f"{self.address}:/{VOLUME}"

    @property
    def options(self) -> tuple[str, ...]:
        return ("nosuid", "nodev", "noexec", f"log-file={self.directory}/log/client.log")

    @property
    def mount_point_base(self) -> Path:
        return self.directory / "mnt"

    @property
    def path(self) -> Path:
        return mounts.mount_point(self.mount_point_base, self.export)

    @property
    def client_pid(self) -> int:
        """The FUSE process behind the mount: the youngest, as the one of a former mount may take its time to end."""
        return max(self._client_pids(), key=_start_time)

    def mount(self) -> Path:
        mounts.mount("glusterfs", self.export, self.path, self.options)
        return self.path

    @contextmanager
    def client_stopped(self) -> Iterator[int]:
        """Stops the FUSE process (SIGSTOP): a program that touches the share hangs, as with a server that is away."""
        pid = self.client_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield pid
        finally:
            os.kill(pid, signal.SIGCONT)

    def stop_brick(self, number: int = 0) -> None:
        """Kills a brick's server. The client sees its connection go."""
        for pid in self._brick_pids(number):
            _end(pid, signal.SIGKILL)

    def start_brick(self, number: int = 0) -> None:
        """Starts a brick's server again and waits until the share answers."""
        wait_until(lambda: self._started(number), "the brick's server")
        wait_until(self._answers, "the share to answer again; the client tries every three seconds")

    def command(self, *arguments: str) -> str:
        """Runs the ``gluster`` command. Raises CalledProcessError."""
        log = f"--log-file={self.directory}/log/cli.log"
        return _output(["gluster", f"--glusterd-sock={self.directory}/sock", log, "--mode=script", *arguments])

    def inside(self, *command: str) -> list[str]:
        """The command as it runs inside the server's network."""
        return ["nsenter", f"--net=/proc/{self.holder}/ns/net", "--", *command]

    def _client_pids(self) -> list[int]:
        return _processes(lambda words: words[0].endswith("glusterfs") and words[-1] == str(self.path))

    def _brick(self, number: int) -> Path:
        return self.directory / "bricks" / str(number)

    def _brick_pids(self, number: int) -> list[int]:
        return _processes(lambda words: words[0].endswith("glusterfsd") and str(self._brick(number)) in words)

    def _started(self, number: int) -> bool:
        """Asks until it is done: glusterd may not have seen yet that the former server is gone."""
        if not self._brick_pids(number):
            self.command("volume", "start", VOLUME, "force")
        return bool(self._brick_pids(number))

    def _answers(self) -> bool:
        done = subprocess.run(["stat", "--file-system", "--", self.path], timeout=_SECONDS, capture_output=True, check=False)
        return done.returncode == 0

    def _ready(self) -> bool:
        try:
            self.command("volume", "list")
        except subprocess.CalledProcessError:
            return False
        return True


@contextmanager
def gluster(directory: Path, bricks: int = 1) -> Iterator[Gluster]:
    """Starts all of it below ``directory`` and takes it away again. Two bricks make a distributed volume.

    About two seconds. Several may run side by side.
    """
    _check_programs()
    for name in ("work", "run", "log", "bricks", "mnt"):
        (directory / name).mkdir()
    with ExitStack() as undo:
        made = _join_network(directory, bricks, undo)
        _start_server(made, undo)
        places = [f"{made.address}:{made._brick(number)}" for number in range(bricks)]
        made.command("volume", "create", VOLUME, *places, "force")
        made.command("volume", "start", VOLUME)
        undo.callback(_stop_volume, made)
        undo.callback(_unmount, made)
        made.mount()
        yield made


def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while not true():
        assert time.monotonic() < deadline, f"waited {_SECONDS:g} s in vain for {what}"
        time.sleep(0.05)


def _check_programs() -> None:
    for program, package in _PROGRAMS.items():
        assert shutil.which(program), f"{program} is missing: install the Debian package {package}, or run 'make setup'"
    assert os.geteuid() == 0, "GlusterFS needs root"


def _join_network(directory: Path, bricks: int, undo: ExitStack) -> Gluster:
    """Makes a network namespace, which lives as long as a process in it, and a link from ours into it."""
    holder = subprocess.Popen(["unshare", "--net", "setpriv", "--pdeathsig", "KILL", "--", "sleep", "infinity"])
    undo.callback(_stop, holder)
    ours = os.readlink("/proc/self/ns/net")
    wait_until(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != ours, "a network namespace")
    number = _free_network()
    made = Gluster(directory, f"10.77.{number}.1", holder.pid, bricks)
    near, far = f"sfg{number}", f"sfg{number}far"
    _output(["ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", str(holder.pid)])
    undo.callback(subprocess.run, ["ip", "link", "del", near], check=False, capture_output=True)
    _output(["ip", "addr", "add", f"10.77.{number}.2/24", "dev", near])
    _output(["ip", "link", "set", near, "up"])
    _output(made.inside("ip", "addr", "add", f"{made.address}/24", "dev", far))
    _output(made.inside("ip", "link", "set", far, "up"))
    _output(made.inside("ip", "link", "set", "lo", "up"))
    return made


def _free_network() -> int:
    routes = json.loads(_output(["ip", "-j", "route", "show", "table", "all"]) or "[]")
    taken = [ipaddress.ip_network(route["dst"], strict=False) for route in routes if _is_network(route["dst"])]
    for number in [(os.getpid() + offset) % 256 for offset in range(256)]:  # another test process may look now, too
        wanted = ipaddress.ip_network(f"10.77.{number}.0/24")
        if not any(wanted.overlaps(network) for network in taken if network.version == 4):
            return number
    raise AssertionError("all of 10.77.0.0/16 is in use on this machine")


def _is_network(text: str) -> bool:
    return text[0].isdigit() and not text.startswith("0.0.0.0")


def _start_server(made: Gluster, undo: ExitStack) -> None:
    options = {"working-directory": "work", "run-directory": "run", "glusterd-sockfile": "sock"}
    settings = [f"--xlator-option=management.{name}={made.directory / place}" for name, place in options.items()]
    files = [f"--pid-file={made.directory}/glusterd.pid", f"--log-file={made.directory}/log/glusterd.log"]
    server = subprocess.Popen(
        made.inside("glusterd", "--no-daemon", *files, *settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    undo.callback(_stop, server)
    wait_until(made._ready, f"glusterd; see {made.directory}/log/glusterd.log")


def _unmount(made: Gluster) -> None:
    mounts.unmount(made.path)
    for pid in made._client_pids():  # nothing is mounted any more; a client that cannot reach its server needs time to notice
        with suppress(ProcessLookupError):
            _end(pid, signal.SIGKILL)


def _stop_volume(made: Gluster) -> None:
    """Its other processes end with it. If glusterd takes too long, the bricks are ended all the same."""
    with suppress(subprocess.SubprocessError):
        made.command("volume", "stop", VOLUME, "force")
    for number in range(made.bricks):
        made.stop_brick(number)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end(pid: int, number: signal.Signals) -> None:
    """Ends a process that is no child of ours."""
    os.kill(pid, number)
    wait_until(lambda: not _words(pid), f"process {pid} to end")


def _processes(wanted: Callable[[list[str]], bool]) -> list[int]:
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if (words := _words(pid)) and wanted(words)]


def _start_time(pid: int) -> int:
    """When a process was started, in clock ticks since the boot; see proc(5). Zero for one that ended meanwhile."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(words[19])


def _words(pid: int) -> list[str]:
    """The arguments of a process; none when it has ended, even if nobody has taken its exit status."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0")
    except OSError:
        return []
    return text.split("\0") if text else []


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS).stdout
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr)
        raise

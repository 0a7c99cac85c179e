"""The programs of .venv-openstack: a real Keystone and a real Glance, each a process of its own on a loopback port."""

import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import requests

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".venv-openstack"
CACHE = ROOT / ".cache" / "openstack"
HINT = "run make setup-openstack, which installs Keystone and Glance into .venv-openstack"
SETUP = ROOT / "deploy/setup-openstack"
START_SECONDS = 90.0

# The services read their own configuration from sys.argv, so it must be empty. One thread, because SQLite answers
# "database is locked" to several. The port is bound by us and handed over, so that nobody can take it in between.
# Whoever started it may be killed: then it ends too (PR_SET_PDEATHSIG, SIGTERM).
_SERVE = """
import ctypes, importlib, socket, sys
ctypes.CDLL(None).prctl(1, 15)
module, handle, limit = sys.argv[1:]
sys.argv = [module]
import waitress
bound = socket.socket(fileno=int(handle))
waitress.serve(importlib.import_module(module).application, sockets=[bound], threads=1, max_request_body_size=int(limit))
"""


def program(name: str) -> str:
    """Returns the path of one of the environment's programs."""
    path = VENV / "bin" / name
    assert path.exists(), f".venv-openstack has no {name}: {HINT}"
    return str(path)


def stamp() -> str:
    """Installs the programs, or waits until whoever does so already is ready; returns what changes whenever they change."""
    done = subprocess.run([str(SETUP)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{SETUP.name} failed: {HINT}\n{done.stdout}{done.stderr}"
    return hashlib.sha256((VENV / "stamp").read_bytes()).hexdigest()[:16]


def run(command: Sequence[str]) -> None:
    """Runs one of the environment's programs to its end."""
    done = subprocess.run([program(command[0]), *command[1:]], capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}"


def from_template(name: str, recipe: str, directory: Path, make: Callable[[Path], None]) -> None:
    """Fills ``directory`` from a template that ``make`` makes once for this environment and this recipe.

    A template is complete or not there: it gets its name last. Whoever comes second throws its own away.
    """
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    template = CACHE / f"{name}-{stamp()}-{digest}"
    if not template.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        making = CACHE / f".{name}-{os.getpid()}"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o700)
        make(making)
        try:
            making.rename(template)
        except OSError:
            shutil.rmtree(making)
    shutil.copytree(template, directory, dirs_exist_ok=True)
    directory.chmod(0o700)


class WsgiServer:
    """One WSGI application of the environment, served on a loopback port it keeps over restarts."""

    def __init__(self, module: str, directory: Path, environment: dict[str, str], body_limit: int = 1 << 20) -> None:
        self.log = directory / f"{module.split('.')[0]}.log"
        self.port = _free_port()
        self._command = [module, str(body_limit)]
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts the process and waits until it answers."""
        module, limit = self._command
        with socket.create_server(("127.0.0.1", self.port)) as bound, self.log.open("ab") as log:
            handle = str(bound.fileno())
            self._process = subprocess.Popen(
                [program("python"), "-c", _SERVE, module, handle, limit],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **self._environment},
                pass_fds=[bound.fileno()],
            )
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, f"{module} ended with {self._process.returncode}\n{self.tail()}"
            assert time.monotonic() < end, f"{module} did not answer within {START_SECONDS:g} s\n{self.tail()}"

    def _answers(self) -> bool:
        """The port is ours already: a question waits in its queue until the process takes it, or is cut off."""
        try:
            return requests.get(self.url + "/", timeout=START_SECONDS).status_code in (200, 300)
        except requests.RequestException:
            time.sleep(0.1)
            return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])

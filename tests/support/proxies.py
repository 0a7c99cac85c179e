"""HAProxy and nginx with the examples of ``deploy/``, in which only addresses, ports and paths are those of a test."""

import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support.certificates import Pair

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
PORTS = {"volume": 8776, "compute": 8774}  # of the examples


class Proxy:
    """A proxy that runs until ``stop``. ``ports`` are where it listens for each service."""

    def __init__(self, kind: str, directory: Path, pair: Pair, behind: Mapping[str, int]) -> None:
        """``behind`` are the services' ports."""
        self.ports = {service: free_port() for service in behind}
        (directory / "stillframe.pem").write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
        (directory / "stillframe.key").write_bytes(pair.key.read_bytes())
        text = (EXAMPLES / {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}[kind]).read_text()
        for service, port in PORTS.items():
            text = text.replace(f"192.0.2.10:{port}", f"127.0.0.1:{self.ports[service]}")
            text = text.replace(f" 127.0.0.1:{port}", f" 127.0.0.1:{behind[service]}")
        text = text.replace(f"/etc/{kind}/", f"{directory}/")
        assert "192.0.2.10" not in text
        assert "/etc/" not in text
        self._log = directory / "proxy.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(_COMMANDS[kind](directory, text), stdout=log, stderr=subprocess.STDOUT)
        for port in self.ports.values():
            self._wait(port)

    def _wait(self, port: int) -> None:
        end = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None and time.monotonic() < end, self._log.read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


def _haproxy(directory: Path, text: str) -> list[str]:
    (directory / "haproxy.cfg").write_text(text)
    return ["haproxy", "-db", "-f", str(directory / "haproxy.cfg")]


def _nginx(directory: Path, text: str) -> list[str]:
    """The example is a part of nginx's configuration; the rest is Debian's, except what two nginx must not share."""
    (directory / "stillframe.conf").write_text(text)
    kept = "".join(f"{name}_temp_path {directory}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (directory / "nginx.conf").write_text(
        f"user root;\npid {directory}/nginx.pid;\nworker_processes 2;\ndaemon off;\nerror_log stderr;\n"
        f"events {{ worker_connections 2048; }}\nhttp {{ access_log off;\n{kept}include {directory}/stillframe.conf;\n}}\n"
    )
    return ["nginx", "-e", "stderr", "-p", str(directory), "-c", str(directory / "nginx.conf")]


_COMMANDS = {"haproxy": _haproxy, "nginx": _nginx}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])

"""An iSCSI target of a test's own: tgtd on loopback with a management socket of its own, a file system that shares blocks, and
QEMU's initiator on the other side. Nothing of the machine's own targets is touched."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INITIATOR = "iqn.1993-08.org.debian:01:stillframe-test"
CONNECTOR = {"initiator": INITIATOR, "ip": "127.0.0.1", "host": "test"}
_CONTROL_PORT = 7
_MIB = 1 << 20


@contextmanager
def reflink_place(directory: Path, mib: int = 1024) -> Iterator[Path]:
    """XFS in a sparse file, mounted by loop; it needs 300 MiB at least."""
    image, point = directory / "xfs.image", directory / "xfs"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(mib * _MIB)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)
        image.unlink()


class Tgtd:
    """The daemon; ``start`` again after ``kill`` finds nothing of what the one before knew."""

    def __init__(self, directory: Path) -> None:
        self._name = directory / "tgt"
        self.log = directory / "tgtd.log"
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])

    @property
    def socket(self) -> Path:
        return Path(f"{self._name}.{_CONTROL_PORT}")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        words = ["tgtd", "-f", "-C", str(_CONTROL_PORT), "--iscsi", f"portal=127.0.0.1:{self.port}"]
        environment = {**os.environ, "TGT_IPC_SOCKET": str(self._name)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
        end = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def _answers(self) -> bool:
        return "Portal:" in self.admin("--op", "show", "--mode", "portal")

    def admin(self, *words: str) -> str:
        """What tgtadm answers; empty when the daemon does not."""
        command = ["tgtadm", "-C", str(_CONTROL_PORT), "--lld", "iscsi", *words]
        environment = {**os.environ, "TGT_IPC_SOCKET": str(self._name)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def tgtd(directory: Path) -> Iterator[Tgtd]:
    made = Tgtd(directory)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def section(name: str, share: Path, daemon: Tgtd) -> str:
    """A backend's section of the configuration."""
    return (
        f"[{name}]\nvolume_driver = iscsi\nshare_dir = {share}\ntarget_port = {daemon.port}\ntgt_socket = {daemon.socket}\n"
        "max_over_subscription_ratio = 100000\n"
    )


@dataclass(frozen=True)
class Disk:
    """A disk as QEMU's initiator sees it, by the ``connection_info`` of its attachment."""

    info: Mapping[str, Any]
    directory: Path
    initiator: str = INITIATOR

    def words(self) -> list[str]:
        secret = self.directory / "secret"
        secret.write_text(self.info["auth_password"])
        driver = {
            "driver": "iscsi",
            "transport": "tcp",
            "portal": self.info["target_portal"],
            "target": self.info["target_iqn"],
            "lun": self.info["target_lun"],
            "user": self.info["auth_username"],
            "password-secret": "chap",
            "initiator-name": self.initiator,
        }
        image = json.dumps({"driver": "raw", "file": driver})
        return ["--object", f"secret,id=chap,file={secret}", f"json:{image}"]

    def io(self, *commands: str) -> "subprocess.CompletedProcess[str]":
        """Runs commands of qemu-io over one session."""
        done = [word for each in commands for word in ("-c", each)]
        return subprocess.run(["qemu-io", *done, *self.words()], capture_output=True, text=True, check=False, timeout=60)

    def write(self, pattern: int, offset: int = 0, length: int = 65536) -> None:
        self._well(f"write -P {pattern} {offset} {length}", "flush")

    def reads(self, pattern: int, offset: int = 0, length: int = 65536) -> bool:
        """Tells whether every byte is ``pattern``. Raises AssertionError when the disk cannot be read."""
        done = self.io(f"read -P {pattern} {offset} {length}")
        assert done.returncode in (0, 1) and "read failed" not in done.stdout and "can't open" not in done.stderr, done
        return "Pattern verification failed" not in done.stdout

    def size(self) -> int:
        """Bytes."""
        done = subprocess.run(
            ["qemu-img", "info", "--output=json", *self.words()], capture_output=True, text=True, check=True, timeout=60
        )
        return int(json.loads(done.stdout)["virtual-size"])

    def _well(self, *commands: str) -> None:
        done = self.io(*commands)
        assert done.returncode == 0 and "failed" not in done.stdout, (done.stdout, done.stderr)

    @contextmanager
    def connected(self, commands: Sequence[str] = ()) -> Iterator["subprocess.Popen[str]"]:
        """Keeps one session open during the block; ``commands`` are run in it first, and their ends are waited for."""
        words = ["stdbuf", "-oL", "qemu-io", *(word for each in (*commands, "length") for word in ("-c", each))]
        process = subprocess.Popen([*words, "-c", "sleep 600000", *self.words()], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.strip().endswith("GiB"):
                    break
            yield process
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

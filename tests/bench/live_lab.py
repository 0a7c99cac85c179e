"""A guest with volumes of ours and one plain disk, the probe inside it, and bare block jobs to compare with."""

import base64
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import libvirt

from stillframe.compute.libvirt import domain_xml
from stillframe.errors import StepFailed
from stillframe.host import block_jobs, hypervisor
from tests.bench.offline_lab import MIB
from tests.support.guest.domain import Guest, GuestOptions
from tests.support.lab import Lab, open_lab
from tests.support.service import Command

PROBE = Path(__file__).parent / "probe.c"
TARGETS = ("vdy", "vdz")
PIECE = 32 << 10  # the agent takes no long commands
LOOK_SECONDS = 0.01


@dataclass
class Plain:
    """A disk of the guest that is no volume. Its serial is its target; its file changes with each snapshot and pull."""

    guest: Guest
    target: str
    file: Path
    count: int = 0
    gone: list[Path] = field(default_factory=list)  # files no longer needed, removed outside of what is measured

    def remove_gone(self) -> None:
        while self.gone:
            self.gone.pop().unlink()


@dataclass
class Bench:
    """``volumes`` are ours, by serial; ``plains`` are the disks for bare jobs."""

    lab: Lab
    guest: Guest
    volumes: list[str]
    plains: list[Plain]
    points: dict[str, str] = field(default_factory=dict)

    def point(self, serial: str) -> str:
        """Where the guest has mounted the disk with that serial."""
        if serial not in self.points:
            told = self.guest.execute("for d in /sys/block/vd?; do echo $(basename $d) $(cat $d/serial); done")
            by_serial = {line.split()[1]: line.split()[0] for line in told.splitlines() if len(line.split()) == 2}
            name = next(name for known, name in by_serial.items() if serial.startswith(known))
            self.points[serial] = f"/mnt/{name}"
        return self.points[serial]

    def write(self, serial: str, name: str, mib: int, at: int = 0) -> None:
        """Writes ``mib`` MiB at ``at`` MiB into a file, in place where it has them already, and syncs."""
        file = f"{self.point(serial)}/{name}"
        piece = min(mib, 8)
        script = (
            "[ -s /run/content ] || dd if=/dev/urandom of=/run/content bs=1M count=8 2>/dev/null; i=0; "
            f"while [ $i -lt {mib} ]; do dd if=/run/content of={file} bs=1M count={piece} seek=$(({at} + i)) conv=notrunc"
            f" 2>/dev/null; i=$((i + {piece})); done; sync"
        )
        self.guest.execute(script)

    def freed(self) -> None:
        """Waits until the share has no file any more that is only there to be unlinked."""
        while any(path.name.startswith(".trash.") for path in self.lab.stack.share.iterdir()):
            time.sleep(0.1)

    def written(self) -> int:
        """Bytes the guest's QEMU has written so far."""
        told = subprocess.run(["pgrep", "-f", f"qemu-system.*{self.guest.id}"], capture_output=True, text=True, check=True)
        status = Path(f"/proc/{told.stdout.split()[0]}/io").read_text()
        return int(status.split("\nwrite_bytes:")[1].split()[0])


@contextmanager
def bench(volumes: int) -> Iterator[Bench]:
    """The writer of the guest is kept almost silent: what is written is the merge's."""
    with tempfile.TemporaryDirectory(prefix="stillframe-bench-") as directory:
        plains = {target: Path(directory) / f"{target}.0" for target in TARGETS}
        for plain in plains.values():
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", plain, "1G"], check=True)
        lab = open_lab(Path(directory), begin=Command)
        try:
            options = GuestOptions(
                name="bench", memory_mib=512, extra_disks="".join(_disk(target, file) for target, file in plains.items())
            )
            guest = lab.add_guest(volumes, options)
            guest.execute("echo 3000000 >/run/interval")
            _upload(guest)
            yield Bench(lab, guest, list(lab.volumes), [Plain(guest, target, file) for target, file in plains.items()])
        finally:
            lab.clear()


def _disk(target: str, file: Path) -> str:
    return f"""<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none' discard='unmap'/>
      <source file='{file}'/><target dev='{target}' bus='virtio'/><serial>{target}</serial></disk>"""


def _upload(guest: Guest) -> None:
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "probe"
        subprocess.run(["gcc", "-O2", "-static", "-s", "-o", program, PROBE], check=True)
        content = program.read_bytes()
    handle = guest.agent("guest-file-open", {"path": "/bin/probe", "mode": "w"})
    for begin in range(0, len(content), PIECE):
        piece = base64.b64encode(content[begin : begin + PIECE]).decode()
        guest.agent("guest-file-write", {"handle": handle, "buf-b64": piece}, 30)
    guest.agent("guest-file-close", {"handle": handle})
    guest.execute("chmod +x /bin/probe")


def bare_snapshot(plain: Plain) -> Path:
    """A plain overlay for the disk; returns the file that was active until now."""
    plain.count += 1
    below, overlay = plain.file, plain.file.with_suffix(f".{plain.count}")
    others = [target for target in _targets(plain.guest) if target != plain.target]
    disks = "".join(f"<disk name='{target}' snapshot='no'/>" for target in others)
    xml = f"""<domainsnapshot><disks>{disks}<disk name='{plain.target}' snapshot='external' type='file'><driver type='qcow2'/>
      <source file='{overlay}'/></disk></disks></domainsnapshot>"""
    plain.guest.domain.snapshotCreateXML(xml, _FLAGS)
    plain.file = overlay
    return below


_FLAGS = (
    libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
)


def _targets(guest: Guest) -> list[str]:
    return [disk.target for disk in domain_xml.read(hypervisor.view(guest.domain).xml).disks]


def bare_commit(plain: Plain, below: Path, bandwidth: int = 0) -> float:
    """Commits the disk's active file into ``below`` and pivots; returns ms."""
    domain, began, gone = plain.guest.domain, time.monotonic(), plain.file
    block_jobs.commit(domain, plain.target, None, str(below), bandwidth)
    while True:
        job = block_jobs.find(domain, plain.target)
        if job is not None and job.total and job.done == job.total:
            try:
                block_jobs.pivot(domain, plain.target)
                break
            except StepFailed:
                pass  # not ready yet
        time.sleep(LOOK_SECONDS)
    took = (time.monotonic() - began) * 1000
    plain.file = below
    plain.gone.append(gone)
    return took


def bare_pull(plain: Plain, below: Path, bandwidth: int = 0) -> float:
    """Pulls ``below``, which has nothing behind it, into the disk's active file; returns ms."""
    domain, began = plain.guest.domain, time.monotonic()
    block_jobs.pull(domain, plain.target, None, bandwidth)
    while block_jobs.find(domain, plain.target) is not None:
        time.sleep(LOOK_SECONDS)
    took = (time.monotonic() - began) * 1000
    plain.gone.append(below)
    return took


def mib(bytes_: float) -> float:
    return round(bytes_ / MIB, 1)

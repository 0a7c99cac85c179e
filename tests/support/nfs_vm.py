"""A small machine with a kernel that has NFS: it exports a share to itself, mounts it, and runs a command on it.

Kernel and modules are those of Debian's cloud kernel, as in the test guest. The machine's root is the root of this host,
read-only by virtiofs below a layer of memory: Python, qemu-img, ``.venv`` and the project are there without being copied.
The share lies on a disk of its own (ext4, made anew for each run), is exported ``root_squash`` and ``sync``, and is
mounted from 127.0.0.1 by NFS 4.2 with the service's own code. No network, no acceleration. Needs root.

The command runs in the project's directory and finds in its environment ``STILLFRAME_NFS_EXPORT``,
``STILLFRAME_NFS_MOUNT_POINT_BASE`` and ``STILLFRAME_NFS_SHARE``, the mounted directory. It runs as one of:

- ``service``: the user SERVICE_UID of the group SHARE_GID, to which the share belongs; cannot mount;
- ``squashed``: root, whom the server takes for that user (``root_squash,anonuid=900,anongid=900``); can mount and unmount;
- ``root``: root, whom the server takes for nobody (``root_squash``).

``python -m tests.support.nfs_vm`` runs the whole driver suite on the share and prints its lines as they come.
"""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from tests.support.guest import build as guest

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache"
PYTHON = sys.executable
EXPORT = "127.0.0.1:/share"
User = Literal["service", "squashed", "root"]
SERVICE_UID, SHARE_GID = 900, 900
_HERE = Path(__file__).parent
_INIT = _HERE / "nfs_vm_init.sh"
_WANTED_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "virtiofs", "overlay", "nfsd", "nfsv4")
_PACKAGES = (
    "nfs-kernel-server nfs-common libnfsidmap1 libtirpc3 libtirpc-common libevent-core-2.1-7 libwrap0 libkeyutils1 libnsl2"
)
_TOOLS = ("mount.nfs", "rpc.mountd", "rpc.nfsd", "exportfs")
_VIRTIOFSD = Path("/usr/lib/qemu/virtiofsd")
_DISK_BYTES = 4 << 30
_MEMORY = "1024M"
# As in the test guest: nothing in there is worth guarding against Spectre, which costs a third of the time here.
_SOON = "nokaslr noreplace-smp mitigations=off tsc=reliable no_timer_check lpj=4000000 cryptomgr.notests audit=0"


@dataclass(frozen=True)
class Machine:
    """Where the kernel and the initramfs lie."""

    kernel: Path
    initrd: Path


def build(cache: Path = CACHE) -> Machine:
    """Builds the machine below ``cache`` unless it is there; about ten seconds, most of it for fetching the kernel."""
    target = cache / "nfs-vm"
    machine, stamp = Machine(target / "vmlinuz", target / "initrd"), target / "stamp"
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in (Path(__file__), _INIT, Path(guest.__file__)))).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted and machine.kernel.exists() and machine.initrd.exists():
        return machine
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        kernel, modules = guest._kernel(work)
        shutil.copy(kernel, machine.kernel)
        machine.initrd.write_bytes(_initramfs(work, modules))
    stamp.write_text(wanted)
    return machine


def run_in_vm(command: Sequence[str], timeout: float, user: User = "service", show: bool = False) -> tuple[int, str]:
    """Boots the machine, runs a command on the mounted share, returns its exit code and what it printed.

    ``timeout`` is in seconds, for all of it; ``show`` prints what comes as it comes. Raises AssertionError with the end of
    the console and of what was printed when the machine does not come to an end.
    """
    assert os.geteuid() == 0, "the NFS machine needs root"
    assert _VIRTIOFSD.exists(), f"{_VIRTIOFSD} is missing: install the Debian package qemu-system-x86, or run 'make setup'"
    machine = build()
    # virtiofsd's socket needs a short path.
    with tempfile.TemporaryDirectory(prefix="nfs-vm-", dir="/tmp") as name:
        work = Path(name)
        (work / "job").write_text(_job(command, user))
        _make_disk(work / "disk")
        with _shown(work / "output") if show else nullcontext():
            _boot(machine, work, timeout)
        output = (work / "output").read_text(errors="replace")
        code = (work / "exit").read_text().strip()
        console = (work / "console").read_text(errors="replace")
    assert code, f"the NFS machine did not end within {timeout:g} s\n{console[-3000:]}\n{output[-6000:]}"
    return int(code), output


@contextmanager
def _shown(output: Path) -> Iterator[None]:
    output.touch()
    reader = subprocess.Popen(["tail", "-f", "-n", "+1", str(output)])
    try:
        yield
        time.sleep(2)  # tail looks once a second
    finally:
        reader.kill()
        reader.wait()


def _job(command: Sequence[str], user: User) -> str:
    words = shlex.join([PYTHON, "-m", "tests.support.nfs_inside", user, *command])
    return f"cd {shlex.quote(str(ROOT))} && PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 exec {words}\n"


def _make_disk(path: Path) -> None:
    with path.open("wb") as disk:
        disk.truncate(_DISK_BYTES)
    _run(["mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", str(path)])


def _boot(machine: Machine, work: Path, timeout: float) -> None:
    """Returns when the machine has powered off, or is killed at the deadline."""
    deadline = time.monotonic() + timeout
    for name in ("console", "output", "exit"):
        (work / name).touch()
    with (work / "log").open("wb") as log:
        shared = [str(_VIRTIOFSD), f"--socket-path={work}/fs", "--rlimit-nofile=0"]
        files = _start([*shared, "-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot"], log)
        try:
            while not (work / "fs").exists():
                assert files.poll() is None and time.monotonic() < deadline, (work / "log").read_text()
                time.sleep(0.02)
            emulator = _start(_qemu(machine, work), log)
            try:
                emulator.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                return
            finally:
                emulator.kill()
                emulator.wait()
        finally:
            files.kill()
            files.wait()


def _qemu(machine: Machine, work: Path) -> list[str]:
    pieces = {
        "-machine": "q35",
        "-accel": "tcg",
        "-cpu": "Nehalem",
        "-smp": "1",
        "-m": _MEMORY,
        "-object": f"memory-backend-memfd,id=memory,size={_MEMORY},share=on",
        "-numa": "node,memdev=memory",
        "-display": "none",
        "-serial": f"file:{work}/console",
        "-kernel": str(machine.kernel),
        "-initrd": str(machine.initrd),
        "-append": f"console=ttyS0 quiet panic=-1 {_SOON} sf.job={work}/job",
        "-drive": f"file={work}/disk,format=raw,if=none,id=disk,cache=unsafe",
    }
    devices = [
        "virtio-blk-pci,drive=disk",
        "vhost-user-fs-pci,chardev=fs,tag=host",
        "virtio-serial-pci",
        "virtserialport,chardev=output,name=output",
        "virtserialport,chardev=exit,name=exit",
    ]
    channels = [f"socket,id=fs,path={work}/fs", f"file,id=output,path={work}/output", f"file,id=exit,path={work}/exit"]
    arguments = [word for pair in pieces.items() for word in pair]
    arguments += [word for channel in channels for word in ("-chardev", channel)]
    arguments += [word for device in devices for word in ("-device", device)]
    return ["qemu-system-x86_64", "-nodefaults", "-no-reboot", *arguments]


def _start(command: list[str], log: IO[bytes]) -> "subprocess.Popen[bytes]":
    guarded = ["setpriv", "--pdeathsig", "KILL", "--", *command]
    return subprocess.Popen(guarded, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _initramfs(work: Path, modules: Path) -> bytes:
    root = work / "root"
    for name in ("bin", "sbin", "modules", "proc", "sys", "dev"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox" if Path("/bin/busybox").exists() else "/usr/bin/busybox", root / "bin/busybox")
    known = {_module_name(path.stem): path for path in modules.rglob("*.ko")}
    order = _in_order(known, _WANTED_MODULES)
    for name in order:
        shutil.copy(known[name], root / "modules" / f"{name}.ko")
    (root / "modules/order").write_text("\n".join(order) + "\n")
    _tools(work, root / "tools")
    shutil.copy(_INIT, root / "init")
    for path in (root, *root.rglob("*")):  # whatever the umask took away: tools/ becomes the machine's own root
        if not path.is_symlink():
            path.chmod(0o755)
    names = "\0".join(sorted(str(path.relative_to(root)) for path in root.rglob("*")))
    return subprocess.run(
        ["cpio", "--quiet", "-0", "-o", "-H", "newc"], cwd=root, input=names.encode(), check=True, capture_output=True
    ).stdout


def _in_order(known: Mapping[str, Path], wanted: Sequence[str]) -> list[str]:
    """The modules wanted and those they need, each after what it needs, as each one's own ``depends=`` says."""
    order: list[str] = []
    for name in wanted:
        needed = re.search(rb"\0depends=([^\0]*)\0", known[name].read_bytes())
        below = [_module_name(each) for each in needed[1].decode().split(",") if each] if needed else []
        order += [each for each in [*_in_order(known, below), name] if each not in order]
    return order


def _module_name(text: str) -> str:
    return text.replace("-", "_")


def _tools(work: Path, target: Path) -> None:
    """What NFS needs of user space, unpacked and not installed: the host gets no NFS server."""
    fetched, tree = work / "fetched", work / "tree"
    fetched.mkdir()
    fetched.chmod(0o777)  # apt drops to its own user for this
    _run(["apt-get", "download", "-q", *_PACKAGES.split()], cwd=fetched)
    for package in fetched.glob("*.deb"):
        _run(["dpkg", "-x", str(package), str(tree)])
    programs, libraries = target / "usr/sbin", target / "usr/lib/x86_64-linux-gnu"
    for directory in (programs, libraries, target / "etc"):
        directory.mkdir(parents=True)
    for name in _TOOLS:
        (found,) = tree.rglob(f"sbin/{name}")
        shutil.copy(found, programs)
    for library in tree.rglob("x86_64-linux-gnu/*.so.*"):
        shutil.copy(library, libraries, follow_symlinks=False)
    shutil.copy(tree / "etc/netconfig", target / "etc/netconfig")


def _run(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"


def main() -> int:
    suite = [PYTHON, "-m", "tests.support.driver_suite", "nfs"]
    share = '"$STILLFRAME_NFS_SHARE" "$STILLFRAME_NFS_EXPORT"'
    return run_in_vm(["sh", "-c", f"exec {shlex.join(suite)} {share}"], timeout=3 * 3600, user="squashed", show=True)[0]


if __name__ == "__main__":
    sys.exit(main())

"""Builds the test guest from Debian packages: kernel, initramfs, guest agent and the writer.

The result lies in a cache directory (``guest/vmlinuz``, ``guest/initrd``) and is built again only when one of its
ingredients has changed. Nothing here needs more than ``apt-get download``, ``dpkg``, ``cpio`` and a C compiler.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
)
ON_DEMAND = ("nls_cp437", "nls_ascii", "nls_iso8859-1", "fat", "vfat", "loop")  # a test loads them, in this order
FIRMWARE_MODULE = "qemu_fw_cfg"  # loaded before the others
PROGRAMS = ("writer", "fill")
TOOLS = ("/usr/sbin/qemu-ga", "/usr/sbin/mke2fs")


@dataclass(frozen=True)
class GuestImage:
    """Where the kernel and the initramfs of the test guest lie."""

    kernel: Path
    initrd: Path


def build(cache: Path) -> GuestImage:
    """Builds the guest below ``cache`` unless it is there already; returns where it lies."""
    target = cache / "guest"
    image = GuestImage(target / "vmlinuz", target / "initrd")
    stamp = target / "stamp"
    wanted = _fingerprint()
    if stamp.exists() and stamp.read_text() == wanted and image.kernel.exists() and image.initrd.exists():
        return image
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, (target / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run side by side
        if not stamp.exists() or stamp.read_text() != wanted:
            work = Path(scratch)
            kernel, modules = _kernel(work)
            shutil.copy(kernel, image.kernel)
            image.initrd.write_bytes(_initramfs(work, modules))
            stamp.write_text(wanted)
    return image


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for path in (HERE / "init.sh", *(HERE / f"{name}.c" for name in PROGRAMS), Path(__file__), *map(Path, TOOLS)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _kernel(work: Path) -> tuple[Path, Path]:
    depends = _output(["apt-cache", "depends", "linux-image-cloud-amd64"])
    match = re.search(r"Depends: (linux-image-\S+-cloud-amd64)", depends)
    if match is None:
        raise RuntimeError("apt knows no linux-image-cloud-amd64: run 'apt-get update' first")
    os.chmod(work, 0o755)
    subprocess.run(
        ["apt-get", "download", "-q", match[1]],
        cwd=work,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    (package,) = work.glob("linux-image-*.deb")
    subprocess.run(["dpkg", "-x", package, work / "kernel"], check=True)
    (kernel,) = (work / "kernel/boot").glob("vmlinuz-*")
    (modules,) = (work / "kernel/lib/modules").iterdir()
    return kernel, modules


def _initramfs(work: Path, modules: Path) -> bytes:
    root = work / "root"
    for name in ("bin", "sbin", "modules", "proc", "sys", "dev", "mnt"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox" if Path("/bin/busybox").exists() else "/usr/bin/busybox", root / "bin/busybox")
    for tool in TOOLS:
        shutil.copy(tool, root / "sbin" / Path(tool).name)
        for library in re.findall(r"(/\S+/(?:lib|ld-)\S+)", _output(["ldd", tool])):
            copy = root / library.lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, copy)
    for module in (*MODULES, *ON_DEMAND, FIRMWARE_MODULE):
        (found,) = modules.rglob(f"{module}.ko")
        shutil.copy(found, root / "modules" / found.name)
    (root / "modules/order").write_text("\n".join(MODULES) + "\n")
    for program in PROGRAMS:
        subprocess.run(["gcc", "-O2", "-static", "-o", root / "bin" / program, HERE / f"{program}.c"], check=True)
    shutil.copy(HERE / "init.sh", root / "init")
    (root / "init").chmod(0o755)
    names = "\0".join(sorted(str(path.relative_to(root)) for path in root.rglob("*")))
    packed = subprocess.run(
        ["cpio", "--quiet", "-0", "-o", "-H", "newc"], cwd=root, input=names.encode(), check=True, capture_output=True
    )
    return packed.stdout


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout

"""The memory of a test guest whose kernel is up, saved once: every other guest begins with it.

An emulated processor needs most of a boot for the kernel, which is the same each time. The saved machine has no disks and
waits for its configuration (init.sh); the guest that begins with its memory looks for disks itself.
"""

import fcntl
import shutil
import struct
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import libvirt

from stillframe.host import private_libvirt

# What libvirt's saved domains begin with (qemu_saveimage.h, version 2, the same from libvirt 1.x to 9.0): magic, version,
# bytes of the description, whether it ran, compression, bytes of the cookie, and 14 numbers for later.
_HEADER = struct.Struct("<16s5I56x")
_MAGIC, _VERSION = b"LibvirtQemudSave", 2
_LEARNT = "cache/qemu/capabilities"
_WAITS, _SECONDS = "guest: waits", 90


def start(domain: libvirt.virDomain, scratch: Path, memory: Path) -> None:
    """Starts a defined domain with ``memory`` instead of booting it. ``scratch`` is a directory for a moment."""
    described = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_MIGRATABLE).encode() + b"\0"
    with tempfile.NamedTemporaryFile(dir=scratch, suffix=".memory") as saved, memory.open("rb") as source:
        saved.write(_HEADER.pack(_MAGIC, _VERSION, len(described), 1, 0, 0) + described)
        shutil.copyfileobj(source, saved, 1 << 20)
        saved.flush()
        domain.connect().restore(saved.name)


def of_a_kernel_that_is_up(cache: Path, describe: Callable[[Path], str], stamp: str) -> Path:
    """Returns where the memory lies below ``cache``. Boots the machine that ``describe`` describes, given the file its
    console goes to, unless the memory is there and was made for ``stamp``."""
    target, made_for = cache / "memory", cache / "memory.stamp"
    with (cache / "memory.lock").open("w") as lock, tempfile.TemporaryDirectory() as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run side by side
        if not made_for.exists() or made_for.read_text() != stamp:
            made_for.unlink(missing_ok=True)  # until the file is complete, it counts as unknown
            console, saved = Path(scratch) / "console", Path(scratch) / "saved"
            _save(Path(scratch) / "libvirt", describe(console), console, saved)
            with saved.open("rb") as source, target.open("wb") as copy:
                source.seek(_HEADER.size + _HEADER.unpack(source.read(_HEADER.size))[2])
                shutil.copyfileobj(source, copy, 1 << 20)
            shutil.rmtree(cache / "capabilities", ignore_errors=True)
            shutil.copytree(Path(scratch) / "libvirt" / _LEARNT, cache / "capabilities")
            made_for.write_text(stamp)
    return target


def tell_capabilities(memory: Path, daemon: Path) -> None:
    """Lets a libvirt daemon that nobody has asked yet know what the one that made ``memory`` had learnt of the emulator, which
    takes four seconds; it looks whether that still holds. ``daemon`` is its directory (private_libvirt)."""
    shutil.copytree(memory.with_name("capabilities"), daemon / _LEARNT, dirs_exist_ok=True)


def _save(directory: Path, description: str, console: Path, saved: Path) -> None:
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # the daemon outlives the object it began with
        private_libvirt.start(directory)
    try:
        with libvirt.open(private_libvirt.uri(directory)) as connection:
            domain = connection.createXML(description)
            try:
                end = time.monotonic() + _SECONDS
                while _WAITS not in (said := console.read_text(errors="replace") if console.exists() else ""):
                    assert time.monotonic() < end, f"the guest's kernel did not come up; console:\n{said[-2000:]}"
                    time.sleep(0.05)
                domain.save(str(saved))
            finally:
                with suppress(libvirt.libvirtError):  # it is gone because it was saved
                    domain.destroy()
    finally:
        private_libvirt.stop(directory)

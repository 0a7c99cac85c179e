"""A disk with a real PostgreSQL and a real MariaDB, made of what is installed on this machine, for the test guest.

The guest mounts it read-only at /usr. It is no volume: no data lies on it. It is made again only when a program has changed.
"""

import fcntl
import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from xml.sax.saxutils import quoteattr

POSTGRESQL = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
HOOKS = Path(__file__).parents[3] / "deploy" / "hooks"
_SHARED = (Path("/usr/share/postgresql") / POSTGRESQL.parent.name, Path("/usr/share/mysql"))
_NAMES = {  # where the guest finds them, as on Debian; there psql is a program that chooses one of several
    "usr/bin/psql": POSTGRESQL / "psql",
    "usr/bin/mariadb": Path("/usr/bin/mariadb"),
    "usr/sbin/mariadbd": Path("/usr/sbin/mariadbd"),
}
# BusyBox's shell would take its own of each name, which have other options than Debian's.
_TOOLS = ("dash", "setpriv", "timeout", "install", "sleep", "date", "cat", "mkdir", "rm", "dirname", "id", "seq", "grep", "sed")
_SCRIPT = Path(__file__).with_suffix(".sh")
_OF_POSTGRESQL = ("postgres", "initdb", "pg_ctl", "pg_controldata")
_MODULES = ("plpgsql", "dict_snowball")
_SPARE = 1.3  # what ext4 takes for itself
_SLOT = 0x1D  # behind every volume, so that these keep their names


def disk(path: Path) -> str:
    """The disk as a part of a domain's description."""
    address = f"<address type='pci' domain='0' bus='0' slot='{_SLOT:#x}' function='0'/>"
    source = f"<driver name='qemu' type='raw'/><source file={quoteattr(str(path))}/><target dev='vdz' bus='virtio'/>"
    return f"<disk type='file' device='disk'>{source}<readonly/>{address}</disk>"


def build(cache: Path) -> Path:
    """Makes the disk below ``cache`` unless it is there; returns where it lies."""
    target = cache / "guest"
    target.mkdir(parents=True, exist_ok=True)
    wanted = _files()
    image = target / f"databases-{_fingerprint(wanted)}"
    with (target / "databases.lock").open("w") as lock, tempfile.TemporaryDirectory(dir=target) as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run side by side
        if not image.exists():
            for former in target.glob("databases-*"):
                former.unlink()
            made = _filesystem(Path(scratch), wanted)
            made.rename(image)
    return image


def _files() -> dict[str, Path]:
    """What is on the disk: its name there, and the file of this machine."""
    wanted = _NAMES | {f"usr/bin/{name}": Path(str(shutil.which(name))) for name in _TOOLS}
    wanted |= {str(POSTGRESQL / name)[1:]: POSTGRESQL / name for name in _OF_POSTGRESQL}
    modules = POSTGRESQL.parent / "lib"
    wanted |= {str(modules / f"{name}.so")[1:]: modules / f"{name}.so" for name in _MODULES}
    for program in tuple(wanted.values()):
        said = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
        for library in re.findall(r"=> (/\S+)", said):
            wanted[f"usr/lib/x86_64-linux-gnu/{Path(library).name}"] = Path(library).resolve()
    wanted["usr/share/databases.sh"] = _SCRIPT
    wanted |= {f"usr/share/hooks/{path.name}": path for path in HOOKS.iterdir()}
    for shared in _SHARED:
        wanted |= {str(path)[1:]: path for path in shared.rglob("*") if path.is_file()}
    return wanted


def _fingerprint(wanted: dict[str, Path]) -> str:
    known = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in sorted(wanted.items())]
    return hashlib.sha256(f"{known} {Path(__file__).read_text()}".encode()).hexdigest()[:16]


def _filesystem(scratch: Path, wanted: dict[str, Path]) -> Path:
    root, image = scratch / "root", scratch / "image"
    for name, path in wanted.items():
        copy = root / name.removeprefix("usr/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    size = sum(path.stat().st_size for path in wanted.values())
    with image.open("wb") as empty:
        empty.truncate((int(size * _SPARE) >> 20) + 16 << 20)
    subprocess.run(["/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-L", "databases", "-d", root, image], check=True)
    return image

"""How long it takes to look at the header of every file of a share, and a list of what may be taken over."""

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from urllib.parse import quote

from stillframe.host import users
from tests.bench.offline_lab import QEMU_IMG, medians, services
from tests.bench.recording import Document, Goal, Section

FILES, QUICK_FILES = 2_000, 200
HEAD_BYTES = 1 << 16
PAGE = 1_000


def _scans(quick: bool) -> Document:
    """The files lie in the page cache for both, so that what is compared is the work and not the disk."""
    count, rounds, samples = QUICK_FILES if quick else FILES, 3 if quick else 21, defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="stillframe-bench-") as directory:
        share = Path(directory)
        golden = _fill(share, count)
        for _ in range(rounds):
            for name, scan in (("bare", _bare), ("one", _one), ("all", _all)):
                began = time.monotonic()
                found = scan(share, golden)
                samples[name].append((time.monotonic() - began) * 1000)
                assert found == count, (name, found)
    return {"files": count, "rounds": rounds, "ms": medians(samples)}


def _fill(share: Path, count: int) -> list[str]:
    """One half are images that stand alone, each of the other half is based on one of those; returns the first half."""
    subprocess.run([QEMU_IMG, "create", "-q", "-f", "qcow2", "golden-0", "1G"], cwd=share, check=True)
    command = [QEMU_IMG, "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "golden-0000000", "clone", "1G"]
    subprocess.run(command, cwd=share, check=True)
    pattern = (share / "clone").read_bytes()
    golden = [f"golden-{number:07}" for number in range(count // 2)]
    for number, name in enumerate(golden):
        shutil.copyfile(share / "golden-0", share / name)
        (share / f"clone-{number}").write_bytes(pattern.replace(b"golden-0000000", name.encode()))
    for name in ("golden-0", "clone"):
        (share / name).unlink()
    return golden


def _bare(share: Path, _golden: list[str]) -> int:
    """What anybody would write who has to read the beginning of every file: list, open, read."""
    found = 0
    with os.scandir(share) as entries:
        for entry in entries:
            handle = os.open(entry.path, os.O_RDONLY)
            found += len(os.read(handle, HEAD_BYTES)) > 0
            os.close(handle)
    return found


def _one(share: Path, golden: list[str]) -> int:
    """Who is based on one file, as before each deletion."""
    assert users.readers(share, golden[:1]) == {golden[0]: ["clone-0"]}
    return len(golden) * 2


def _all(share: Path, golden: list[str]) -> int:
    """Who is based on any of a thousand, as for a list."""
    return len(users.readers(share, golden)) * 2


def _pages(quick: bool) -> Document:
    """A page of 1,000 files that may all be taken over: for each ``qemu-img check`` has said that it is whole."""
    count, rounds, samples = 20 if quick else PAGE, 1 if quick else 3, []
    with services() as lab:
        subprocess.run([QEMU_IMG, "create", "-q", "-f", "qcow2", "image-0", "1G"], cwd=lab.stack.share, check=True)
        for number in range(1, count):
            shutil.copyfile(lab.stack.share / "image-0", lab.stack.share / f"image-{number}")
        admin = lab.stack.api("stillframe-admin")
        pool = admin.ok("volume", "GET", "/scheduler-stats/get_pools")["pools"][0]["name"]
        for _ in range(rounds):
            began = time.monotonic()
            found = admin.ok("volume", "GET", f"/manageable_volumes?host={quote(pool)}")["manageable-volumes"]
            samples.append(time.monotonic() - began)
            assert [each["safe_to_manage"] for each in found] == [True] * count
    return {"files": count, "rounds": rounds, "seconds": statistics.median(samples)}


def _show_scans(found: Document) -> list[str]:
    ms = found["ms"]
    return [
        f"A share with {found['files']:,} images, half of them based on the other half, in the page cache. Listing it, opening"
        f" each file and reading 64 KiB, with nothing else: {ms['bare']:.0f} ms. Who is based on one of the files, as it is"
        f" asked before a deletion: {ms['one']:.0f} ms. Who is based on any of {found['files'] // 2:,} of them, as a list of"
        f" manageable volumes asks once: {ms['all']:.0f} ms. Medians of {found['rounds']}.",
    ]


def _show_pages(found: Document) -> list[str]:
    return [
        f"A page of {found['files']:,} manageable volumes, all of which may be taken over, through REST:"
        f" {found['seconds']:.1f} s. Nearly all of it is `qemu-img check` of each file. Median of {found['rounds']}.",
    ]


def _goals_of_scans(found: Document) -> list[Goal]:
    ms = found["ms"]
    return [
        Goal(f"headers of {found['files']:,} files, users of one: ours / list, open, read", ms["one"] / ms["bare"], 4),
        Goal(f"the same, users of {found['files'] // 2:,} / of one", ms["all"] / ms["one"], 2),
    ]


def _goals_of_pages(found: Document) -> list[Goal]:
    return [Goal(f"page of {found['files']:,} manageable volumes", found["seconds"], 30, " s")]


SECTIONS = [
    Section("headers", "Looking at the headers of a share", _scans, _show_scans, _goals_of_scans),
    Section("manageable", "Manageable volumes", _pages, _show_pages, _goals_of_pages),
]

"""Real qemu-img merges the files above a golden image, whichever way the disk names it, and never touches the golden image."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from stillframe.host import ancestry, parents, qcow2, qemu_img
from tests.support.pattern import CLUSTER, seen
from tests.unit.builders import OTHER_SNAPSHOT, OTHER_VOLUME, SNAPSHOT, VOLUME

FIRST = 0x31
SIZE = 16 * CLUSTER
OVERLAYS = [f"volume-{VOLUME}.{each}" for each in (SNAPSHOT, OTHER_SNAPSHOT, OTHER_VOLUME)]
NAMES = ("{golden}/middle", "../golden/middle", 'json:{{"driver":"qcow2","file.filename":"{golden}/middle"}}')


def run(*words: str | Path) -> None:
    subprocess.run(words, check=True)


def create(path: Path, backing: str, format_: str) -> None:
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", format_, path, str(SIZE))


def fill(path: Path, start: int, value: int) -> None:
    """Two clusters, without opening what is behind the file."""
    image = f'json:{{"driver":"qcow2","backing":null,"file":{{"driver":"file","filename":"{path}"}}}}'
    run("qemu-io", "-c", f"write -q -P {value} {start * CLUSTER} {2 * CLUSTER}", image)


@pytest.fixture(params=NAMES, ids=["absolute", "relative", "json"])
def share(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """``disk`` over the golden ``middle`` over the golden ``lowest``, and three overlays on it, each with content."""
    path, golden = tmp_path / "share", tmp_path / "golden"
    path.mkdir(mode=0o711)
    golden.mkdir()
    (golden / "lowest").write_bytes(bytes([FIRST]) * 4 * CLUSTER)
    create(golden / "middle", "lowest", "raw")
    create(path / "disk", request.param.format(golden=golden), "qcow2")
    parents.record(path, "disk", ancestry.look(path, "disk", "qcow2"))
    for number, (name, below) in enumerate(zip(OVERLAYS, ("disk", *OVERLAYS), strict=False)):
        create(path / name, below, "qcow2")
        fill(path / name, 3 + number, number + 1)
    return path


CONTENT = {0: FIRST, 1: FIRST, 2: FIRST, 3: 1, 4: 2, 5: 3, 6: 3}


def golden(share: Path) -> dict[str, tuple[str, int]]:
    found = sorted((share.parent / "golden").iterdir())
    return {each.name: (hashlib.sha256(each.read_bytes()).hexdigest(), each.stat().st_mtime_ns) for each in found}


def test_files_are_committed_down_into_the_disk(share: Path) -> None:
    before, header = golden(share), qcow2.read(share, "disk")
    assert seen(share, OVERLAYS[2]) == CONTENT
    for _again in range(2):
        qemu_img.commit(share, OVERLAYS[2], "disk", 4)
        assert seen(share, "disk") == seen(share, OVERLAYS[2]) == CONTENT
    assert (golden(share), qcow2.read(share, "disk")) == (before, header)


def test_a_pull_ends_above_the_disk(share: Path) -> None:
    before = golden(share)
    below = seen(share, "disk")
    for _again in range(2):
        qemu_img.pull(share, OVERLAYS[2], "disk", "qcow2", 4)
        assert qcow2.read(share, OVERLAYS[2]).backing == "disk"
        assert seen(share, OVERLAYS[2]) == CONTENT
    assert seen(share, "disk") == below == dict.fromkeys(range(4), FIRST)
    assert [number for number in range(8) if holds(share / OVERLAYS[2], number)] == [3, 4, 5, 6]
    assert golden(share) == before


def holds(path: Path, cluster: int) -> bool:
    """Tells whether a file holds a cluster itself."""
    image = f'json:{{"driver":"qcow2","backing":null,"file":{{"driver":"file","filename":"{path}"}}}}'
    command = ["qemu-io", "-r", "-c", f"alloc {cluster * CLUSTER} {CLUSTER}", image]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    return not told.stdout.startswith("0/")

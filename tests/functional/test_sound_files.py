"""Files whose writer died, with real programs: repaired before anything is built on them, or refused with nothing changed."""

import subprocess
import time
from pathlib import Path

import pytest

from stillframe.errors import InternalSnapshots, NotSound
from stillframe.host import files, inspection, qemu_img, soundness
from tests.support import qemu_io
from tests.support.qemu_io import dead_writer


def run(share: Path, *words: str) -> None:
    subprocess.run(words, cwd=share, check=True, stdout=subprocess.DEVNULL)


def write(share: Path, name: str, pattern: int, at: str) -> None:
    run(share, "qemu-io", "-f", "qcow2", "-c", f"write -P {pattern} {at} 64k", name)


def reads(share: Path, name: str, pattern: int, at: str) -> bool:
    words = ["qemu-io", "-r", "-f", "qcow2", "-c", f"read -P {pattern} {at} 64k", name]
    said = subprocess.run(words, cwd=share, check=False, capture_output=True, text=True)
    return said.returncode == 0 and "verification failed" not in said.stdout


@pytest.fixture
def dirty(tmp_path: Path) -> Path:
    """``a`` with 17 at 2 MiB and counts that do not know it; ``above`` is based on it and holds 19 at 0."""
    run(tmp_path, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "a", "1G")
    dead_writer(tmp_path, "a", "write -P 17 2M 64k", "flush")
    run(tmp_path, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "a", "above")
    write(tmp_path, "above", 19, "0")
    return tmp_path


def test_a_repaired_base_keeps_its_content_through_a_commit(dirty: Path) -> None:
    with pytest.raises(NotSound, match="dirty bit"):
        soundness.require(dirty, "a", "qcow2")
    assert len(soundness.repair(dirty, "a", "qcow2")) == 2
    assert soundness.repair(dirty, "a", "qcow2") == []
    assert soundness.look(dirty, "a", "qcow2").sound
    qemu_img.commit(dirty, "above", "a", 2)
    assert reads(dirty, "a", 19, "0") and reads(dirty, "a", 17, "2M")
    qemu_img.check(dirty, "a", "qcow2")


def test_a_file_that_a_program_has_open_is_not_repaired(dirty: Path) -> None:
    words = ["qemu-io", "-r", "-f", "qcow2", "-c", "sleep 600000", "above"]
    reader = subprocess.Popen(words, cwd=dirty, stdout=subprocess.DEVNULL)
    try:
        while not files.is_locked(dirty, "a"):
            time.sleep(0.05)
        with pytest.raises(NotSound, match="has it open"):
            soundness.repair(dirty, "a", "qcow2")
        with pytest.raises(NotSound):
            soundness.refuse_beyond_repair(dirty, "a", "qcow2")
        assert soundness.mend_open(dirty, inspection.chain_of(dirty, "above", "qcow2")) == []
    finally:
        reader.kill()
        reader.wait()
    soundness.refuse_beyond_repair(dirty, "a", "qcow2")
    assert soundness.mend_open(dirty, inspection.chain_of(dirty, "above", "qcow2"))
    assert reads(dirty, "above", 17, "2M") and reads(dirty, "above", 19, "0")


def test_bitmaps_that_were_in_use_are_named_and_not_removed(tmp_path: Path) -> None:
    run(tmp_path, "qemu-img", "create", "-q", "-f", "qcow2", "a", "64M")
    for name in ("monday", "tuesday"):
        run(tmp_path, "qemu-img", "bitmap", "--add", "a", name)
    assert soundness.look(tmp_path, "a", "qcow2").sound
    dead_writer(tmp_path, "a", "write -P 5 0 64k", "flush")
    assert soundness.look(tmp_path, "a", "qcow2").bitmaps == ("monday", "tuesday")
    for look in (soundness.require, soundness.repair, soundness.check, soundness.refuse_beyond_repair):
        with pytest.raises(NotSound, match="monday, tuesday"):
            look(tmp_path, "a", "qcow2")
    for name in ("monday", "tuesday"):
        run(tmp_path, "qemu-img", "bitmap", "--remove", "a", name)
    soundness.check(tmp_path, "a", "qcow2")
    assert reads(tmp_path, "a", 5, "0")


def test_deleting_an_internal_snapshot_as_the_hint_says_loses_nothing(tmp_path: Path) -> None:
    run(tmp_path, "qemu-img", "create", "-q", "-f", "qcow2", "a", "64M")
    run(tmp_path, "qemu-img", "snapshot", "-c", "old", "a")
    write(tmp_path, "a", 7, "1M")
    with pytest.raises(InternalSnapshots):
        soundness.look(tmp_path, "a", "qcow2")
    run(tmp_path, "qemu-img", "snapshot", "-d", "old", "a")
    soundness.check(tmp_path, "a", "qcow2")
    assert reads(tmp_path, "a", 7, "1M")


def test_a_dirty_file_with_further_damage_is_not_touched(dirty: Path) -> None:
    """Two guest clusters in one place: QEMU's own repair counts 2 and is content, and one of them stays wrong."""
    write(dirty, "above", 23, "4M")  # a cluster that is nobody's business
    dead_writer(dirty, "a", "write -P 18 6M 64k", "flush")  # QEMU repaired at this opening; dirty again
    soundness.refuse_beyond_repair(dirty, "a", "qcow2")
    soundness.check(dirty, "a", "qcow2")
    qemu_io.cross(dirty / "a", 32, 96)
    before = (dirty / "a").read_bytes()
    for act in (soundness.repair, soundness.check, soundness.refuse_beyond_repair):
        with pytest.raises(NotSound, match="more is damaged than its reference counts"):
            act(dirty, "a", "qcow2")
    with pytest.raises(NotSound, match="more is damaged"):
        soundness.mend_open(dirty, inspection.chain_of(dirty, "above", "qcow2"))
    assert (dirty / "a").read_bytes() == before


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ((1 << 63) | (1 << 40), "past the end"),
        ((1 << 63) | 0x50200, "where no cluster begins"),
        ((1 << 63) | 0x10000, "where something else is too"),  # the table of counts
        ((1 << 62) | 0x10000, "where something else is too"),
    ],
)
def test_damage_that_no_repair_of_counts_mends_is_refused(dirty: Path, entry: int, told: str) -> None:
    at = qemu_io.entry_of(dirty / "a", 33)
    with (dirty / "a").open("r+b") as file:
        file.seek(at)
        file.write(entry.to_bytes(8, "big"))
    before = (dirty / "a").read_bytes()
    with pytest.raises(NotSound, match=told):
        soundness.repair(dirty, "a", "qcow2")
    assert (dirty / "a").read_bytes() == before


def test_compressed_content_shares_clusters_and_is_no_damage(tmp_path: Path) -> None:
    run(tmp_path, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "a", "1G")
    dead_writer(
        tmp_path, "a", "write -c -P 7 1M 64k", "write -c -P 8 700M 64k", "write -P 9 3M 128k", "write -z 3M 64k", "flush"
    )
    assert len(soundness.repair(tmp_path, "a", "qcow2")) == 2
    assert reads(tmp_path, "a", 7, "1M") and reads(tmp_path, "a", 8, "700M") and reads(tmp_path, "a", 0, "3M")
    write(tmp_path, "a", 5, "9M")
    assert reads(tmp_path, "a", 7, "1M") and reads(tmp_path, "a", 8, "700M") and reads(tmp_path, "a", 5, "9M")
    qemu_img.check(tmp_path, "a", "qcow2")


def test_a_check_without_time_refuses_only_a_file_that_was_not_closed(dirty: Path) -> None:
    before = (dirty / "a").read_bytes()
    with pytest.raises(NotSound, match="too large to check"):
        soundness.check(dirty, "a", "qcow2", 0.0)
    soundness.check(dirty, "above", "qcow2", 0.0)
    assert (dirty / "a").read_bytes() == before
    run(dirty, "qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", "a", "NEW")  # as the message says
    soundness.check(dirty, "NEW", "qcow2")
    assert soundness.look(dirty, "NEW", "qcow2").sound and reads(dirty, "NEW", 17, "2M")

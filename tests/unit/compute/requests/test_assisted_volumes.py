"""The growth of a disk in the network: block storage did it, and a running guest is to see it."""

from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.requests import assisted_volumes
from stillframe.compute.worker.context import WorkerContext
from stillframe.db.engine import Database
from stillframe.errors import ChainConflict, NotFound
from stillframe.host import block_jobs
from tests.unit.builders import GIB, SNAPSHOT, VOLUME, context
from tests.unit.compute import fakes

DISK = f'<disk type="network"><source protocol="iscsi" name="a/1"/><target dev="vdb"/><serial>{VOLUME}</serial></disk>'


class Qemu:
    """A disk as QEMU sees it; ``extended``: how large its target is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, extended: int) -> None:
        self.size, self.extended = GIB, extended
        self.asked: list[int] = []
        monkeypatch.setattr(block_jobs, "size", lambda _domain, target: self.size if target == "vdb" else 0)
        monkeypatch.setattr(block_jobs, "resize", self._resize)

    def _resize(self, _domain: Any, _target: str, size: int) -> None:
        self.asked.append(size)
        self.size = min(size, self.extended)


def worker(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, active: bool) -> WorkerContext:
    xml = fakes.domain_xml(DISK)
    return fakes.worker(database, tmp_path, [fakes.view(xml, xml, active=active)], monkeypatch)


def test_a_running_guest_sees_the_growth_once(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qemu = Qemu(monkeypatch, 2 * GIB)
    for _ in range(2):
        assisted_volumes.resize_disk(worker(database, tmp_path, monkeypatch, True), context(), VOLUME, 2 * GIB)
    assert qemu.asked == [2 * GIB]
    with pytest.raises(ChainConflict, match="already, more than"):
        assisted_volumes.resize_disk(worker(database, tmp_path, monkeypatch, True), context(), VOLUME, GIB)


def test_a_target_that_was_not_extended_is_told(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Qemu(monkeypatch, GIB)
    with pytest.raises(ChainConflict, match=r"iscsi a/1 has .* after it was grown to"):
        assisted_volumes.resize_disk(worker(database, tmp_path, monkeypatch, True), context(), VOLUME, 2 * GIB)


def test_a_stopped_server_sees_it_when_it_starts(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qemu = Qemu(monkeypatch, 2 * GIB)
    assisted_volumes.resize_disk(worker(database, tmp_path, monkeypatch, False), context(), VOLUME, 2 * GIB)
    assert qemu.asked == []


def test_its_files_are_none_of_computes(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = worker(database, tmp_path, monkeypatch, False)
    found = assisted_volumes.server_of(there, context(), VOLUME)
    assert found is not None and (found["active"], found["file"]) == (False, None)
    with pytest.raises(NotFound, match="is no file"):
        assisted_volumes.switch_file(there, context(), VOLUME, {"name": f"volume-{VOLUME}.{SNAPSHOT}", "format": "qcow2"})

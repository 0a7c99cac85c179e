"""What a merge holds, which other merges wait for it, and who may need the files that go."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.compute.operations import merge
from stillframe.compute.operations.merge_intents import MergeVolume
from stillframe.db.engine import Database
from stillframe.errors import Conflict, HypervisorUnavailable
from stillframe.host import block_jobs, files, soundness
from stillframe.host.hypervisor import DomainView
from tests.unit.builders import OTHER_SERVER, VOLUME
from tests.unit.compute import fakes, intents


def held(server_id: str, volume_id: str, kind: str = "pull") -> set[str]:
    about = {"server_id": server_id, "volume_id": volume_id}
    asked = intents.pull(**about) if kind == "pull" else intents.commit(**about)
    return set(merge.request(asked, None, "r").resources)


def test_merges_of_one_server_wait_for_each_other_and_those_of_others_do_not() -> None:
    assert held("one", "a") & held("one", "b")
    assert held("one", "a", "commit") & held("one", "b")
    assert not held("one", "a") & held("two", "b")
    assert held("one", "a") & held("two", "a")


def operation(directory: Path) -> Any:
    """The end of a pull of b out of a <- b <- c, whose files are as they are to be."""
    name = f"volume-{VOLUME}.c"
    gone = (f"volume-{VOLUME}.b",)
    return SimpleNamespace(id="operation", intent=intents.pull(directory=str(directory), active=name, gone=gone, closes=()))


@pytest.fixture
def running(tmp_path: Path) -> DomainView:
    xml = fakes.domain_xml(fakes.disk_xml("vda", str(tmp_path / f"volume-{VOLUME}.c"), VOLUME))
    return fakes.view(xml, xml)


def dark() -> DomainView:
    """A server whose saved memory does not tell which files it needs."""
    return replace(fakes.saved_view("<domain/>", None), uuid=OTHER_SERVER)


def test_a_saved_memory_that_cannot_be_read_may_need_what_was_merged(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: DomainView
) -> None:
    """It is waited for; nothing is given up for removal meanwhile."""
    verify = merge.KIND.verbs["verify"].do
    monkeypatch.setattr(files, "listing", lambda _share: [])
    with pytest.raises(HypervisorUnavailable, match="not known which files it needs"):
        verify(fakes.worker(database, tmp_path, [running, dark()], monkeypatch), operation(tmp_path), None)
    assert verify(fakes.worker(database, tmp_path, [running], monkeypatch), operation(tmp_path), None) == {}


def test_nothing_is_begun_while_a_saved_memory_cannot_be_read(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: DomainView
) -> None:
    look = merge.KIND.verbs["look"].do
    monkeypatch.setattr(block_jobs, "find", lambda _domain, _target: None)
    with pytest.raises(Conflict, match="nothing was merged"):
        look(fakes.worker(database, tmp_path, [running, dark()], monkeypatch), operation(tmp_path), None)
    assert look(fakes.worker(database, tmp_path, [running], monkeypatch), operation(tmp_path), None) == {}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (intents.pull(closes=(("a", "raw"), ("b", "qcow2"))), ["close a raw", "close b qcow2"]),
        (intents.commit(base_format="raw"), ["write a raw", "close b qcow2"]),
        (intents.pull(closes=()), []),
    ],
)
def test_what_a_running_qemu_writes_into_or_closes_must_be_sound(
    monkeypatch: pytest.MonkeyPatch, asked: MergeVolume, expected: list[str]
) -> None:
    said: list[str] = []
    monkeypatch.setattr(soundness, "require_for_live", lambda _share, *what: said.append(" ".join(("write", *what))))
    monkeypatch.setattr(soundness, "require_for_closing", lambda _share, *what: said.append(" ".join(("close", *what))))
    merge.require_sound(asked)
    assert said == expected

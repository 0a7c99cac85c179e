"""What a merge holds, which other merges wait for it, and who may need the files that go."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.compute.operations import merge
from stillframe.db.engine import Database
from stillframe.errors import Conflict, HypervisorUnavailable
from stillframe.host import block_jobs, files, soundness
from stillframe.host.hypervisor import DomainView
from tests.unit.builders import OTHER_SERVER, SERVER, VOLUME
from tests.unit.compute import fakes


def held(server_id: str, volume_id: str, kind: str = "pull") -> set[str]:
    intent: dict[str, Any] = {"kind": kind, "server_id": server_id, "volume_id": volume_id}
    return set(merge.request(intent, None, "r").resources)


def test_merges_of_one_server_wait_for_each_other_and_those_of_others_do_not() -> None:
    assert held("one", "a") & held("one", "b")
    assert held("one", "a", "commit") & held("one", "b")
    assert not held("one", "a") & held("two", "b")
    assert held("one", "a") & held("two", "a")


def operation(directory: Path) -> Any:
    """The end of a pull of b out of a <- b <- c, whose files are as they are to be."""
    name = f"volume-{VOLUME}.c"
    intent = {"server_id": SERVER, "volume_id": VOLUME, "target": "vda", "directory": str(directory), "active": name}
    return SimpleNamespace(id="operation", intent={**intent, "kind": "pull", "gone": [f"volume-{VOLUME}.b"]})


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
        verify(fakes.world(database, tmp_path, [running, dark()], monkeypatch), operation(tmp_path), {})
    assert verify(fakes.world(database, tmp_path, [running], monkeypatch), operation(tmp_path), {}) == {}


def test_nothing_is_begun_while_a_saved_memory_cannot_be_read(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: DomainView
) -> None:
    look = merge.KIND.verbs["look"].do
    monkeypatch.setattr(block_jobs, "find", lambda _domain, _target: None)
    with pytest.raises(Conflict, match="nothing was merged"):
        look(fakes.world(database, tmp_path, [running, dark()], monkeypatch), operation(tmp_path), {})
    assert look(fakes.world(database, tmp_path, [running], monkeypatch), operation(tmp_path), {}) == {}


@pytest.mark.parametrize(
    ("intent", "asked"),
    [
        ({"kind": "pull", "closes": [["a", "raw"], ["b", "qcow2"]]}, ["close a raw", "close b qcow2"]),
        ({"kind": "commit", "base": "a", "base_format": "raw", "closes": [["b", "qcow2"]]}, ["write a raw", "close b qcow2"]),
        ({"kind": "pull"}, []),  # of a release that did not know better
    ],
)
def test_what_a_running_qemu_writes_into_or_closes_must_be_sound(
    monkeypatch: pytest.MonkeyPatch, intent: dict[str, Any], asked: list[str]
) -> None:
    said: list[str] = []
    monkeypatch.setattr(soundness, "require_for_live", lambda _share, *what: said.append(" ".join(("write", *what))))
    monkeypatch.setattr(soundness, "require_for_closing", lambda _share, *what: said.append(" ".join(("close", *what))))
    merge.require_sound(Path("/srv"), intent)
    assert said == asked

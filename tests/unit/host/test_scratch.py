"""Scratch overlays: what of a header that QEMU may have written to is believed, and which files may be removed."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stillframe.errors import BadImage, ChainConflict
from stillframe.host import iscsi, qcow2, scratch
from stillframe.host.image_command import Login
from stillframe.units import GIB
from tests.unit.builders import OTHER_VOLUME, SET, VOLUME
from tests.unit.host.headers import BACKING_FORMAT, DATA_FILE, Header

NAME = "scratch-one.qcow2"
ONE, OTHER = scratch.name_of(VOLUME, SET), scratch.name_of(OTHER_VOLUME, SET)
UNIT = iscsi.Unit("192.0.2.1:3260", "iqn.2026-01.example:one", 1, "iqn.2026-01.example:host")
BELOW: dict[str, Any] = {"backing": f"{NAME}.below".encode(), "extensions": [(BACKING_FORMAT, b"raw")]}
FORGED: dict[str, dict[str, Any]] = {
    "a data file": {"incompatible": 4, "extensions": [(DATA_FILE, b"/etc/shadow")]},
    "a data file that no bit tells of": {"extensions": [(DATA_FILE, b"/etc/shadow")]},
    "another backing file": {**BELOW, "backing": b"other"},
    "a backing file of another format": {**BELOW, "extensions": [(BACKING_FORMAT, b"qcow2")]},
    "a path": {**BELOW, "backing": b"/etc/shadow"},
    "another size": {**BELOW, "size": 2 * GIB},
    "an internal snapshot": {**BELOW, "internal_snapshots": 1},
}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The verbs of the programs that were run."""
    verbs: list[str] = []

    @contextmanager
    def login(unit: iscsi.Unit, _password: str | None) -> Iterator[Login]:
        yield Login(unit.portal, unit.target, unit.lun, unit.initiator)

    def size_of(_unit: iscsi.Unit, _password: str | None) -> int:
        verbs.append("log in")
        return GIB

    monkeypatch.setattr(iscsi, "size_of", size_of)
    monkeypatch.setattr(iscsi, "login", login)
    monkeypatch.setattr(scratch, "run", lambda words, **_more: verbs.append(words[1]))
    return verbs


def commit(directory: Path, **header: Any) -> None:
    (directory / NAME).write_bytes(Header(**header).start().ljust(1 << 18, b"\0"))
    scratch.commit(scratch.Overlay(directory, NAME, GIB), UNIT, None)


@pytest.mark.parametrize("header", [BELOW, {}])
def test_what_was_made_is_committed_also_when_a_commit_was_interrupted(
    tmp_path: Path, ran: list[str], header: dict[str, Any]
) -> None:
    commit(tmp_path, **header)
    assert ran == ["log in", "rebase", "commit"]


@pytest.mark.parametrize("what", FORGED)
def test_a_header_that_somebody_else_wrote_leads_to_no_file_of_the_host(tmp_path: Path, ran: list[str], what: str) -> None:
    """The content of any file of the host would be written to the guest's volume."""
    with pytest.raises(BadImage, match=NAME):
        commit(tmp_path, **FORGED[what])
    assert ran == []


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of overlays that a guest wrote to."""
    names: set[str] = set()
    monkeypatch.setattr(qcow2, "holds_data", lambda _directory, name: name in names)
    return names


@pytest.mark.usefixtures("written")
def test_only_overlays_are_listed(tmp_path: Path) -> None:
    for name in (OTHER, ONE, f"{ONE}.new", "scratch-x.qcow2", f"volume-{VOLUME}", f"{ONE}.old"):
        (tmp_path / name).touch()
    found = scratch.look(tmp_path)
    assert [each.name for each in found] == sorted([ONE, f"{ONE}.new", OTHER])
    assert {(each.volume_id, each.set_id, each.made) for each in found} == {
        (VOLUME, SET, True),
        (VOLUME, SET, False),
        (OTHER_VOLUME, SET, True),
    }
    assert scratch.look(tmp_path / "none") == []


def test_a_file_without_a_whole_header_holds_data_unless_nobody_ever_opened_it(tmp_path: Path) -> None:
    for name in (ONE, f"{ONE}.new"):
        (tmp_path / name).write_bytes(b"QFI")
    assert {each.name: each.holds_data for each in scratch.look(tmp_path)} == {ONE: True, f"{ONE}.new": False}


def test_only_what_holds_nothing_and_nobody_has_open_is_removed(tmp_path: Path, written: set[str]) -> None:
    (tmp_path / ONE).touch()
    written.add(ONE)
    with pytest.raises(ChainConflict, match="was written to"):
        scratch.remove_empty(tmp_path, ONE)
    assert (tmp_path / ONE).exists()
    written.clear()
    for _ in range(2):
        scratch.remove_empty(tmp_path, ONE)
    assert scratch.look(tmp_path) == []


def test_the_directory_lets_qemus_user_through_whatever_the_umask(tmp_path: Path) -> None:
    """The services set 077."""
    before = os.umask(0o077)
    try:
        scratch.prepare(tmp_path / "scratch", create=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "scratch").stat().st_mode) == 0o711

"""libvirt calls a domain saved for as long as it is off: whether it still is, is known from what was seen."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.libvirt import saved_notes
from stillframe.errors import NotFound
from stillframe.host import hypervisor
from stillframe.host.hypervisor import DomainView
from tests.unit.compute import fakes

SAVED = fakes.saved_view("<domain/>", "<domain/>")
GONE = replace(SAVED, saved=False, saved_xml=None)  # the image was removed, or there never was one
RUNS = fakes.view("<domain/>")
LIBVIRT: Any = None


def test_a_server_that_was_saved_to_some_file_is_told_from_one_whose_image_was_removed(tmp_path: Path) -> None:
    saved_notes.follow(tmp_path, GONE)
    assert saved_notes.is_saved_elsewhere(tmp_path, GONE)
    assert not saved_notes.is_saved_elsewhere(tmp_path, SAVED)
    saved_notes.follow(tmp_path, SAVED)
    saved_notes.follow(tmp_path, GONE)
    assert not saved_notes.is_saved_elsewhere(tmp_path, GONE)


def test_a_server_that_ran_since_was_saved_anew(tmp_path: Path) -> None:
    for seen in (SAVED, SAVED, RUNS, RUNS, GONE):
        saved_notes.follow(tmp_path, seen)
    assert saved_notes.is_saved_elsewhere(tmp_path, GONE)


def test_a_start_by_somebody_else_is_seen_and_a_server_that_is_gone_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_notes.look(LIBVIRT, tmp_path)  # nothing was ever saved
    saved_notes.follow(tmp_path, SAVED)
    monkeypatch.setattr(hypervisor, "find", lambda _connection, _uuid: SAVED)
    saved_notes.look(LIBVIRT, tmp_path)
    assert not saved_notes.is_saved_elsewhere(tmp_path, GONE)
    monkeypatch.setattr(hypervisor, "find", lambda _connection, _uuid: RUNS)
    saved_notes.look(LIBVIRT, tmp_path)
    assert saved_notes.is_saved_elsewhere(tmp_path, GONE)
    saved_notes.follow(tmp_path, SAVED)

    def gone(_connection: Any, _uuid: str) -> DomainView:
        raise NotFound("gone")

    monkeypatch.setattr(hypervisor, "find", gone)
    saved_notes.look(LIBVIRT, tmp_path)
    assert list((tmp_path / "saved").iterdir()) == []


def test_one_that_was_shut_down_is_not_saved(tmp_path: Path) -> None:
    assert not saved_notes.is_saved_elsewhere(tmp_path, fakes.view("<domain/>", active=False))
    assert not saved_notes.is_saved_elsewhere(tmp_path, RUNS)

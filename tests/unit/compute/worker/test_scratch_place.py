"""A scratch directory that no set could use is refused when the worker starts."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.compute.worker import scratch_place
from stillframe.errors import BadConfiguration, ScratchUnusable


def settings(place: Path, configured: bool = True, mode: str = "overlay") -> Any:
    options = SimpleNamespace(scratch_dir=str(place) if configured else None, native_mode=mode)
    return SimpleNamespace(scratch_dir=place, compute=options)


def unusable(directory: Path) -> list[Path]:
    """Nothing there; a file there, and above; somebody else's."""
    (directory / "file").touch()
    other = directory / "other"
    other.mkdir(mode=0o700)
    os.chown(other, 65534, -1)
    return [directory / "none", directory / "file", directory / "file/below", other]


def test_a_directory_that_cannot_be_used_is_refused_at_start(tmp_path: Path) -> None:
    places = unusable(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for place in places:
        with pytest.raises(BadConfiguration, match=f"scratch_dir: {place} "):
            scratch_place.refuse_at_start(settings(place))
        with pytest.raises(ScratchUnusable, match=f"scratch_dir: {place} "):
            scratch_place.require(settings(place))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_directory_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch_place.refuse_at_start(settings(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)  # as of a file system that is mounted read-only
    with pytest.raises(BadConfiguration, match=f"scratch_dir: {tmp_path} cannot be written to"):
        scratch_place.refuse_at_start(settings(tmp_path))


def test_nothing_is_asked_of_a_directory_that_no_set_needs(tmp_path: Path) -> None:
    """The default one is made when it is first needed."""
    scratch_place.refuse_at_start(settings(tmp_path / "none", mode="frozen"))
    scratch_place.refuse_at_start(settings(tmp_path / "none", configured=False))
    assert not (tmp_path / "none").exists()
    scratch_place.require(settings(tmp_path / "none", configured=False))
    assert (tmp_path / "none").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(BadConfiguration, match="scratch_dir"):
        scratch_place.refuse_at_start(settings(tmp_path / "file", configured=False))

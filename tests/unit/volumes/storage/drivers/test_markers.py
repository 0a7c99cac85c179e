"""Whose a share is: its marker names one deployment, and another one refuses it."""

import json
from pathlib import Path

import pytest

from stillframe.errors import ForeignShare
from stillframe.volumes.storage.drivers import markers
from stillframe.volumes.storage.drivers.directory import DirectoryShare
from stillframe.volumes.storage.drivers.markers import MARKER
from tests.unit.builders import new_id


@pytest.fixture
def owner(tmp_path: Path) -> str:
    owner = new_id()
    markers.claim(tmp_path, owner)
    return owner


def marker(share: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((share / MARKER).read_text())
    return found


def test_a_share_is_claimed_once_and_keeps_its_id(tmp_path: Path, owner: str) -> None:
    before = marker(tmp_path)
    assert before["deployment"] == owner
    assert markers.claim(tmp_path, owner) == before["share_id"]
    assert marker(tmp_path) == before


def test_another_deployment_is_refused_and_changes_nothing(tmp_path: Path, owner: str) -> None:
    before = marker(tmp_path)
    for taken_from in (None, new_id()):
        with pytest.raises(ForeignShare, match=owner):
            markers.claim(tmp_path, new_id(), taken_from)
    with pytest.raises(ForeignShare):
        DirectoryShare(tmp_path, before["share_id"], 0, deployment=new_id()).listing()
    assert marker(tmp_path) == before


def test_a_share_is_handed_over_by_name_and_lost_to_the_former_one(tmp_path: Path, owner: str) -> None:
    heir, former = new_id(), DirectoryShare(tmp_path, marker(tmp_path)["share_id"], 0, deployment=owner)
    former.probe()
    assert markers.claim(tmp_path, heir, owner) == former.share_id
    DirectoryShare(tmp_path, former.share_id, 0, deployment=heir).probe()
    with pytest.raises(ForeignShare, match=heir):
        former.probe()


def test_a_marker_of_before_names_nobody_and_is_claimed(tmp_path: Path) -> None:
    share_id = markers.prepare(tmp_path)
    assert markers.is_unclaimed(tmp_path, share_id)
    assert not markers.is_unclaimed(tmp_path, new_id())
    assert markers.claim(tmp_path, new_id()) == share_id
    assert not markers.is_unclaimed(tmp_path, share_id)

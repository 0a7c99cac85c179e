"""A volume that cannot grow is as it was: its status, its size, and a fault that says why."""

from typing import Any

import pytest

from stillframe.chain.names import base_name
from stillframe.db import operations
from stillframe.errors import StepFailed
from stillframe.volumes.requests import volumes as volume_requests
from tests.unit.volumes.site import Site
from tests.unit.volumes.test_every_moment import attach


@pytest.fixture(params=["available", "in-use"])
def volume_id(site: Site, request: pytest.FixtureRequest) -> str:
    made = site.volume()
    if request.param == "in-use":
        attach(site, made, running=True)
    return made


def is_as_before(site: Site, volume_id: str, status: str) -> str:
    """Returns the fault."""
    row, ended = site.row(volume_id), site.newest()
    assert (ended["state"], row["status"], row["size"]) == ("undone", status, 1)
    assert row["fault"] == ended["fault"]["message"]
    assert site.unfinished() == []
    return str(row["fault"])


@pytest.mark.parametrize("when", ["before it begins", "after it began"])
def test_a_volume_whose_file_somebody_removed_is_as_before(
    site: Site, volume_id: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, resize = site.row(volume_id)["status"], site.share.resize

    def removed_meanwhile(*arguments: object) -> None:
        del site.share.entries[base_name(volume_id)]
        monkeypatch.setattr(site.share, "resize", resize)
        raise FileNotFoundError(base_name(volume_id))

    volume_requests.extend(site.worker, site.member, volume_id, 3)
    if when == "before it begins":
        del site.share.entries[base_name(volume_id)]
    else:
        monkeypatch.setattr(site.share, "resize", removed_meanwhile)
    site.end()
    assert base_name(volume_id) in is_as_before(site, volume_id, before)


def test_what_qemu_img_refuses_is_told_in_its_words_and_not_tried_for_ever(
    site: Site, volume_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, asked = site.row(volume_id)["status"], [0]

    def refuse(*_arguments: object) -> None:
        asked[0] += 1
        raise StepFailed("qemu-img: Image is corrupt; cannot be opened read/write")

    monkeypatch.setattr(site.share, "resize", refuse)
    volume_requests.extend(site.worker, site.member, volume_id, 3)
    site.end()
    assert "Image is corrupt" in is_as_before(site, volume_id, before)
    assert asked == [1]


def test_a_volume_that_could_not_grow_can_grow_when_it_is_put_right(
    site: Site, volume_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(site.share, "resize", _refuse)
        volume_requests.extend(site.worker, site.member, volume_id, 3)
        site.end()
    volume_requests.extend(site.worker, site.member, volume_id, 3)
    site.end()
    assert (site.newest()["state"], site.row(volume_id)["size"], site.row(volume_id)["fault"]) == ("done", 3, None)


def _refuse(*_arguments: object) -> None:
    raise StepFailed("no")


def test_what_an_older_release_began_to_grow_is_not_taken_back(
    site: Site, monkeypatch: pytest.MonkeyPatch, volume_id: str
) -> None:
    """It noted the beginning as it notes the end."""
    volume_requests.extend(site.worker, site.member, volume_id, 3)
    with site.worker.database.write() as connection:
        (row,) = operations.unfinished(connection, "volumes")
        name = row["plan"][-1]["verb"]
        old: dict[str, Any] = {"owner": None, "evidence": {name: {}}, "step": len(row["plan"]) - 1}
        assert operations.claim(connection, row, "here:1:1", 0.0)
        assert operations.change(connection, row["id"], "here:1:1", row["epoch"] + 1, **old)
    monkeypatch.setattr(site.share, "resize", _refuse)
    site.end()
    assert site.newest()["state"] == "parked"

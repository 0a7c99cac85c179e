"""What block storage tidies up by itself, and what it leaves alone."""

from typing import Any

import pytest

from stillframe.chain.names import base_name
from stillframe.db import volumes
from stillframe.errors import Conflict, NotSound, StepFailed
from stillframe.journal import record
from stillframe.journal.record import Request
from stillframe.volumes import periodic
from stillframe.volumes.requests import snapshots as snapshot_requests
from stillframe.volumes.requests import volumes as volume_requests
from tests.unit.journal.fakes import intent_of
from tests.unit.volumes import fakes
from tests.unit.volumes.site import Site
from tests.unit.volumes.test_every_moment import attach, grown, linking


def kinds(site: Site) -> list[str]:
    return [row["kind"] for row in site.unfinished()]


def change(site: Site, volume_id: str, **values: Any) -> None:
    with site.worker.database.write() as connection:
        volumes.change(connection, volume_id, **values)


def reverted(site: Site) -> str:
    volume_id, taken = grown(site, (3, 4, 2))
    site.revert(volume_id, taken[0], "keep")
    site.settle()
    return volume_id


def test_an_undo_is_kept_until_something_is_written(site: Site) -> None:
    volume_id = reverted(site)
    for _ in range(3):
        periodic.look(site.worker)
        assert kinds(site) == []
    site.write(volume_id, 5, 5)
    periodic.look(site.worker)
    assert kinds(site) == ["release_files"]
    site.end()
    assert site.row(volume_id)["undo_file"] is None
    site.check()


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_a_file_that_goes_while_it_is_looked_at_keeps_no_other_volume_waiting(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    gone, written = reverted(site), reverted(site)
    site.write(written, 5, 5)
    holds_data = site.share.holds_data

    def look(name: str) -> bool:
        if gone in name:
            raise error(2, "No such file or directory", name)
        return holds_data(name)

    monkeypatch.setattr(site.share, "holds_data", look)
    periodic.look(site.worker)
    assert [row["intent"]["volume_id"] for row in site.unfinished()] == [written]


def test_a_look_that_finds_nothing_to_do_writes_nothing(site: Site) -> None:
    """It comes every few seconds, for ever."""
    volume_id = reverted(site)
    before = site.row(volume_id)
    periodic.look(site.worker)
    assert site.row(volume_id) == before


def test_what_a_clone_held_is_merged_when_it_is_gone(site: Site) -> None:
    linking(site)
    volume_id, taken = grown(site, (3, 4, 2))
    clone = site.volume(snapshot_id=taken[1], volume_type="linked")
    site.revert(volume_id, taken[0], "remove")
    site.write(volume_id, 1, 1)
    site.settle()
    assert len(site.share.files(volume_id)) == 3, "the clone's file stays"
    volume_requests.delete(site.worker, site.member, clone)
    site.end()
    site.settle()
    assert len(site.share.files(volume_id)) == 2
    assert site.row(volume_id)["needs_cleanup"] is False
    site.check()


def test_nothing_is_merged_under_a_server_over_files_that_are_not_sound(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute would refuse it each time, in an operation that holds the volume."""
    linking(site)
    volume_id, taken = grown(site, (3, 4, 2))
    clone = site.volume(snapshot_id=taken[1], volume_type="linked")
    site.revert(volume_id, taken[0], "remove")
    site.write(volume_id, 1, 1)
    site.settle()
    volume_requests.delete(site.worker, site.member, clone)
    site.end()
    attach(site, volume_id, running=True)
    asked: list[Any] = []

    def refuse(_volume_id: str, among: Any = None, closing: Any = ()) -> None:
        asked.append((among, closing))
        raise NotSound("dirty bit")

    with monkeypatch.context() as dirty:
        dirty.setattr(site.share, "check_sound", refuse)
        periodic.look(site.worker)
    assert (len(asked), kinds(site)) == (1, [])
    periodic.look(site.worker)
    assert kinds(site) == ["release_files"]


@pytest.mark.parametrize("status", ["reverting", "deleting", "error", "reserved", "extending", "backing-up"])
def test_a_volume_in_between_is_left_alone(site: Site, status: str) -> None:
    volume_id = reverted(site)
    site.write(volume_id, 5, 5)
    change(site, volume_id, status=status)
    periodic.look(site.worker)
    assert kinds(site) == []


def test_a_volume_an_operation_holds_is_left_alone(site: Site) -> None:
    volume_id = reverted(site)
    site.write(volume_id, 5, 5)
    snapshot_requests.create(site.worker, site.member, volume_id, {})
    periodic.look(site.worker)
    assert kinds(site) == ["create_snapshot"]


def test_what_came_while_the_files_were_looked_at_stops_it(site: Site) -> None:
    volume_id = reverted(site)
    site.write(volume_id, 5, 5)
    site.share.looked = lambda: change(site, volume_id, status="reserved")
    periodic.look(site.worker)
    assert kinds(site) == []


def test_one_volume_that_cannot_be_looked_at_keeps_the_others_from_nothing(site: Site) -> None:
    broken, whole = reverted(site), reverted(site)
    del site.share.entries[base_name(broken)]
    site.write(whole, 5, 5)
    periodic.look(site.worker)
    assert [row["intent"]["volume_id"] for row in site.unfinished()] == [whole]


def test_a_share_that_does_not_answer_ends_nothing(site: Site) -> None:
    volume_id = reverted(site)
    site.write(volume_id, 5, 5)
    site.share.silent = True
    periodic.look(site.worker)
    site.share.silent = False
    assert kinds(site) == []


def test_documents_that_could_not_be_written_are_written_later(site: Site) -> None:
    volume_id, _taken = grown(site, (3, 4, 2))
    volume_requests.update(site.worker, site.member, volume_id, {"name": "renamed"})
    site.end(fails={1: StepFailed("by hand")})
    assert (site.row(volume_id)["fault"], site.row(volume_id)["needs_cleanup"]) == ("by hand", True)
    assert not site.documents_are_right(site.row(volume_id))
    periodic.look(site.worker)
    assert kinds(site) == ["record_chain"]
    site.end()
    assert (site.row(volume_id)["fault"], site.row(volume_id)["needs_cleanup"]) == (None, False)
    assert site.documents_are_right(site.row(volume_id))


def test_a_mark_that_is_set_during_a_look_is_not_lost(site: Site) -> None:
    volume_id, _taken = grown(site, (3, 4, 2))
    change(site, volume_id, needs_cleanup=True)
    site.share.looked = lambda: change(site, volume_id, status="reserved")
    periodic.look(site.worker)
    assert site.row(volume_id)["needs_cleanup"] is True


@pytest.mark.parametrize("running", [True, False])
def test_a_file_that_lost_its_snapshots_under_a_server_gets_its_name_when_nobody_has_it_open(site: Site, running: bool) -> None:
    volume_id, taken = grown(site, (2, 6))
    attach(site, volume_id, running=True)
    snapshot_requests.delete(site.worker, site.member, taken[0])
    site.end()
    del site.model[taken[0]]
    site.settle()
    assert site.row(volume_id)["active_file"] != base_name(volume_id)
    assert site.row(volume_id)["needs_cleanup"] is True
    site.check()
    site.share.opened.clear()
    server = fakes.compute(site.worker).servers[volume_id]
    if running:
        del fakes.compute(site.worker).servers[volume_id]
        change(site, volume_id, status="available")
    else:
        server["active"] = False
    site.settle()
    assert site.row(volume_id)["active_file"] == base_name(volume_id)
    assert running or server["file"] == base_name(volume_id)
    site.check()


def test_trash_that_a_crash_left_is_swept(site: Site) -> None:
    volume_id, _taken = grown(site, (1,))
    site.share.entries[f".trash.{base_name(volume_id)}"] = site.share.entries[base_name(volume_id)]
    periodic.look(site.worker)
    assert f".trash.{base_name(volume_id)}" not in site.share.entries


def test_directories_of_operations_that_ended_are_removed(site: Site) -> None:
    staging = site.worker.settings.staging_dir
    volume_id, _taken = grown(site, (1,))
    snapshot_requests.create(site.worker, site.member, volume_id, {})
    (running,) = site.unfinished()
    for name in (running["id"], "of-an-ended-one"):
        (staging / name).mkdir(parents=True)
    periodic.look(site.worker)
    assert [path.name for path in staging.iterdir()] == [running["id"]]


@pytest.mark.parametrize("intent", [{}, {"backup": {"id": "b"}}, {"backup": "b"}])
def test_no_object_is_removed_while_an_operation_of_another_release_may_store_it(site: Site, intent: dict[str, Any]) -> None:
    with site.worker.database.write() as connection:
        record.submit(connection, Request("volumes", "create_backup", intent_of(**intent), [], [], "r"))
    with pytest.raises(Conflict, match="which does not say what it stores"):
        periodic._live_backups(site.worker)

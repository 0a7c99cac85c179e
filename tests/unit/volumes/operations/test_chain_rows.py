"""A plan of several merges that stops between two: the rows say what the files are."""

from typing import Any

import pytest

from stillframe.chain.image import Image
from stillframe.chain.names import base_name, overlay_name
from stillframe.chain.steps import Record, Rename, Trash
from stillframe.db import volumes
from stillframe.db.engine import Database
from stillframe.errors import StepFailed
from stillframe.journal.operation import Operation
from stillframe.journal.typed import step
from stillframe.volumes.chain.observe import After
from stillframe.volumes.operations import chain_rows
from stillframe.volumes.operations.backups import RestoreContent
from stillframe.volumes.operations.executors.intents import OnChain
from stillframe.volumes.requests import snapshots as snapshot_requests
from stillframe.volumes.requests import volumes as volume_requests
from tests.unit import builders
from tests.unit.builders import GIB, SHARE, VOLUME, new_id
from tests.unit.volumes import fakes
from tests.unit.volumes.site import Site
from tests.unit.volumes.test_every_moment import attach, grown


def abandoned_operations(merged: bool) -> dict[str, Any]:
    return {"status": "undone", "fault": {"message": "given up by hand", "details": {"merged": merged}}}


@pytest.mark.parametrize("base_format", ["qcow2", "raw"])
@pytest.mark.parametrize("merged", [False, True])
def test_the_second_of_two_merges_is_given_up(site: Site, base_format: str, merged: bool) -> None:
    volume_id, taken = growing(site, base_format)
    attach(site, volume_id, running=True)
    fakes.compute(site.worker).refuses = [None, abandoned_operations(merged)]
    snapshot_requests.delete_several(site.worker, site.member, [taken[0], taken[2]])
    site.end()
    assert (site.newest()["state"], site.newest()["fault"]["message"]) == ("undone", "given up by hand")
    assert site.snapshot_row(taken[0]) is None, "its data is gone, and so is it"
    left = site.snapshot_row(taken[2])
    assert left is not None
    assert (left["status"], left["fault"]) == ("error_deleting" if merged else "available", "given up by hand")
    del site.model[taken[0]]
    site.check()
    row = site.row(volume_id)
    assert (row["base_format"], row["format"]) == (base_format, "qcow2")
    fakes.compute(site.worker).refuses = []
    snapshot_requests.delete(site.worker, site.member, taken[2])
    site.end()
    assert site.newest()["state"] == "done"
    assert site.snapshot_row(taken[2]) is None
    site.check()


def growing(site: Site, base_format: str) -> tuple[str, list[str]]:
    if base_format == "qcow2":
        return grown(site, (6, 2, 1, 2, 6))
    volume_id, taken = grown(site, (6,))
    file = site.share.entries[base_name(volume_id)]
    file.image = Image(file.image.name, "raw", file.image.size)
    change(site, volume_id, format="raw", base_format="raw")
    for number, weight in enumerate((2, 1, 2, 6)):
        taken.append(site.snapshot(volume_id))
        for cluster in range(weight):
            site.write(volume_id, (number * 2 + cluster) % 9, 900 + 10 * number + cluster)
    return volume_id, taken


def change(site: Site, volume_id: str, **values: Any) -> None:
    with site.worker.database.write() as connection:
        volumes.change(connection, volume_id, **values)


def test_a_deletion_that_is_refused_at_its_beginning_changes_nothing(site: Site) -> None:
    volume_id, taken = grown(site, (3, 4, 2))
    snapshot_requests.delete(site.worker, site.member, taken[0])
    site.share.opened.add(base_name(volume_id))
    site.end()
    assert site.newest()["state"] == "undone"
    row = site.snapshot_row(taken[0])
    assert row is not None
    assert row["status"] == "available"
    assert "open" in row["fault"]
    site.check()


def test_a_volume_whose_deletion_is_refused_gets_its_snapshots_back(site: Site) -> None:
    volume_id, taken = grown(site, (3, 4, 2))
    volume_requests.delete(site.worker, site.member, volume_id, cascade=True)
    site.share.opened.add(base_name(volume_id))
    site.end()
    assert site.newest()["state"] == "undone"
    assert site.row(volume_id)["status"] == "available"
    found = [site.snapshot_row(each) for each in taken]
    assert [row and row["status"] for row in found] == ["available"] * 2
    site.check()


def test_a_revert_that_is_refused_leaves_every_snapshot_available(site: Site) -> None:
    volume_id, taken = grown(site, (3, 4, 2))
    volume_requests.revert(site.worker, site.member, volume_id, taken[0], "remove")
    site.share.opened.add(base_name(volume_id))
    site.end()
    assert (site.newest()["state"], site.row(volume_id)["status"]) == ("undone", "available")
    assert "open" in site.row(volume_id)["fault"]
    found = [site.snapshot_row(each) for each in taken]
    assert [row and row["status"] for row in found] == ["available"] * 2
    site.check()


def test_a_snapshot_that_failed_is_not_made_available_by_a_revert_that_removes_newer_ones(site: Site) -> None:
    volume_id, taken = grown(site, (3, 4, 2))
    failed = snapshot_requests.create(site.worker, site.member, volume_id, {})
    site.end(fails={2: StepFailed("by hand")})
    row = site.snapshot_row(failed)
    assert row is not None
    assert row["status"] == "error"
    site.revert(volume_id, taken[0], "remove")
    again = site.snapshot_row(failed)
    assert again is None or again["status"] == "error"
    site.check()
    snapshot_requests.delete(site.worker, site.member, failed)
    assert site.snapshot_row(failed) is None


def test_what_is_parked_says_so_and_goes_on_after_a_restart(site: Site) -> None:
    volume_id, taken = grown(site, (6, 2, 1, 2, 6))
    snapshot_requests.delete_several(site.worker, site.member, [taken[0], taken[2]])
    broken = [False]

    def fail(what: str) -> None:
        if what in ("commit", "pull") and broken[0]:
            raise StepFailed("by hand")
        broken[0] = broken[0] or what == "remove"

    site.end_with(fail)
    assert site.newest()["state"] == "parked"
    assert site.snapshot_row(taken[0]) is None
    left = site.snapshot_row(taken[2])
    assert left is not None
    assert left["status"] == "error_deleting"
    site.end()
    assert site.newest()["state"] == "done"
    assert site.snapshot_row(taken[2]) is None
    site.check()
    assert site.row(volume_id)["fault"] is None


BASE, RESTORED = base_name(VOLUME), overlay_name(VOLUME, new_id())


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
@pytest.mark.parametrize("renamed", [False, True])
def test_a_restore_that_is_abandoned_leaves_the_row_with_the_format_of_the_file(
    database: Database, format_: str, renamed: bool
) -> None:
    """What a restore over a raw volume puts in its place is raw, under either name: read as qcow2 it would be what its guest
    wrote."""
    with database.write() as connection:
        builders.volume_row(connection, format=format_, base_format=format_)
    plan = [
        step(RestoreContent(name=RESTORED, size=GIB, format=format_)),
        step(Record(RESTORED, {}, {})),
        step(Trash(BASE)),
        step(Rename(RESTORED, BASE)),
        step(Record(BASE, {}, {}), "Record-2"),
    ]
    intent = OnChain(
        volume_id=VOLUME,
        backend="local",
        share=SHARE,
        format=format_,
        active_before=BASE,
        status_before="available",
        after=After(active=BASE, format=format_, snapshots={}, removed=(), holds={}),
    )
    done = 4 if renamed else 2
    evidence: dict[str, Any] = {each.key: {} for each in plan[: done + 1]}
    operation = Operation(new_id(), "restore_backup", "parked", intent, plan, done, evidence, 1, 1, "r")
    present = [BASE] if renamed else [RESTORED]
    with database.write() as connection:
        assert chain_rows.follow_abandoned(connection, operation, {"details": {"begun": True, "present": present}})
        row = volumes.get(connection, VOLUME, None)
    assert row is not None
    assert (row["active_file"], row["format"]) == (BASE if renamed else RESTORED, format_)
    assert row["base_format"] == format_

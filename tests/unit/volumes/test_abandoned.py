"""Every offline operation, parked at every move it makes and abandoned there: no row says more than is true.

Whatever is called usable reads as it did before, or as was asked; nothing is removed; the volume takes the next request.
"""

import copy
import os
from typing import Any

import pytest
from sqlalchemy import update

from stillframe.db import operations, snapshots, volumes
from stillframe.db.tables import operations as table
from stillframe.errors import Parked
from stillframe.journal import abandoning
from stillframe.journal.operation import Operation
from stillframe.volumes.kinds import KINDS
from stillframe.volumes.requests import group_snapshots as group_snapshot_requests
from stillframe.volumes.requests import snapshots as snapshot_requests
from tests.unit.volumes import fakes
from tests.unit.volumes.site import Content, Site, restore, save
from tests.unit.volumes.test_every_moment import Case, DeleteVolume, Extend, PullTheOnly, Release, Unmanage, cases

BROKEN = ("error", "error_extending", "error_deleting")


def parked_at(site: Site, number: int) -> list[Any]:
    """Runs the journal until the share's move of that number asks for a person, and all later ones too; returns what is parked,
    of each volume one operation at the most. Nothing when there is no such move."""
    moves = [0]

    def move(_what: str) -> None:
        moves[0] += 1
        if moves[0] >= number:
            raise Parked("by hand")

    site.end_with(move)
    found = [row for row in site.unfinished() if row["state"] == "parked"]
    assert len({row["intent"].get("volume_id") for row in found}) == len(found)
    return found


def abandon(site: Site, row: Any) -> None:
    files = copy.deepcopy((site.share.entries, site.share.documents))
    with site.worker.database.write() as connection:
        abandoning.abandon(connection, row, KINDS[row["kind"]], site.share.listing())
    assert (site.share.entries, site.share.documents) == files, "abandoning touches no file"
    with site.worker.database.read() as connection:
        ended = operations.get(connection, row["id"])
    assert ended is not None
    assert (ended["state"], (ended["fault"] or {})["code"]) == ("undone", "abandoned")
    assert "a person abandoned it: by hand" in (ended["fault"] or {})["message"]


def reads_as_one_of(site: Site, models: list[dict[str, Content]]) -> None:
    """What counts as usable reads as before or as was asked; so does what a volume in error says it is made of."""
    seen = site.seen()
    for key, content in seen.items():
        assert content in [model[key] for model in models if key in model], f"{key} reads as something else"
    for row in site.rows():
        if row["status"] in ("error", "error_extending") and row["id"] in models[0]:
            content = site.share.content(row["active_file"])
            assert content in [model[row["id"]] for model in models if row["id"] in model]


def goes_on(site: Site, made: Case) -> None:
    """The volume is locked no more: put right as an administrator does, it takes a snapshot."""
    row = next((each for each in site.rows() if each["id"] == getattr(made, "volume_id", None)), None)
    if row is None or row["status"] == "error_deleting":
        return
    server = fakes.compute(site.worker).servers.get(row["id"])
    if server is not None and row["status"] == "error":
        return  # its definition and its row may differ
    if server is not None:
        assert server["file"] == row["active_file"]
    if row["status"] in BROKEN:
        with site.worker.database.write() as connection:
            volumes.change(connection, row["id"], status="available")
    content = dict(site.share.content(row["active_file"]))
    with site.worker.database.read() as connection:
        failed = [each for each in snapshots.of_volume(connection, row["id"]) if each["status"] in BROKEN]
    for each in failed:
        if each["group_snapshot_id"] is None:
            snapshot_requests.delete(site.worker, site.member, each["id"])
        else:
            group_snapshot_requests.delete(site.worker, site.member, each["group_snapshot_id"])
        site.end()
        assert site.snapshot_row(each["id"]) is None
    if server is not None:
        assert site.share.content(site.row(row["id"])["active_file"]) == content
        return  # its server takes snapshots of it
    taken = snapshot_requests.create(site.worker, site.member, row["id"], {})
    site.end()
    found = site.snapshot_row(taken)
    assert found is not None
    assert (found["status"], found["fault"]) == ("available", None)
    assert site.share.content(found["backing"]) == content
    assert site.share.content(site.row(row["id"])["active_file"]) == content


def tried(site: Site, made: Case, number: int) -> bool:
    before = copy.deepcopy(site.model)
    made.act(site)
    parked = parked_at(site, number)
    if not parked:
        return False
    if len({id(file) for file in site.share.entries.values()}) < len(site.share.entries):
        return True  # between a link and an unlink: the file has two names, which the doctor tells
    for row in parked:
        abandon(site, row)
    assert [each for each in site.unfinished() if each["state"] == "parked"] == []
    made.follow(site) if parked[0]["kind"] != "unmanage_volume" else None
    models = [before, copy.deepcopy(site.model)]
    reads_as_one_of(site, models)
    site.end()
    reads_as_one_of(site, models)
    site.settle()
    reads_as_one_of(site, models)
    goes_on(site, made)
    return True


@pytest.mark.parametrize("case", [each for each in cases() if each is not Release], ids=lambda case: case.__name__)
def test_what_is_abandoned_anywhere_says_no_more_than_is_true(site: Site, case: type[Case]) -> None:
    """Each third move, and others with each change of src; STILLFRAME_EVERY_PLACE tries all of them."""
    made = case(site)
    every = bool(os.environ.get("STILLFRAME_EVERY_PLACE"))
    begun, number, pace = save(site), 1 if every else 1 + int(os.environ["STILLFRAME_SEED"]) % 3, 1 if every else 3
    while tried(site, made, number):
        restore(site, begun)
        number += pace
    assert number > pace


def abandoned_at(site: Site, made: Case, verb: str) -> Any:
    """Parked within the first step of that verb, and abandoned while the share does not answer."""
    begun = save(site)
    row: Any | None = None
    for number in range(1, 99):
        restore(site, begun)
        made.act(site)
        row = next(iter(parked_at(site, number)), None)
        if row is None or (row["plan"][row["step"]]["verb"] == verb and verb in row["evidence"]):
            break
    assert row is not None, f"it has no step {verb}"
    with site.worker.database.write() as connection:
        abandoning.abandon(connection, row, KINDS[row["kind"]])
    return site.newest()


def test_a_file_whose_name_nobody_can_tell_makes_the_volume_an_error(site: Site) -> None:
    made = PullTheOnly(site)
    ended = abandoned_at(site, made, "Rename")
    row = site.row(made.volume_id)
    assert (row["status"], row["fault"]) == ("error", ended["fault"]["message"])
    assert row["active_file"] in row["fault"], "the file is named"


@pytest.mark.parametrize(("case", "status"), [(Extend, "error_extending"), (DeleteVolume, "error_deleting")])
def test_what_was_begun_is_not_called_available(site: Site, case: type[Case], status: str) -> None:
    made = case(site)
    made.act(site)
    (row,) = parked_at(site, 1)
    while not abandoning.begun(Operation.from_row(row), KINDS[row["kind"]]):
        with site.worker.database.write() as connection:
            assert operations.unpark_one(connection, row)
        (row,) = parked_at(site, 2)
    abandon(site, row)
    found = site.row(made.volume_id)
    assert (found["status"], found["size"]) == (status, 1)
    assert "a person abandoned it" in found["fault"]


@pytest.mark.parametrize("case", [Extend, DeleteVolume, Unmanage])
def test_what_was_never_begun_is_as_before(site: Site, case: type[Case]) -> None:
    made = case(site)
    made.act(site)
    row = site.unfinished()[0]
    with site.worker.database.write() as connection:
        connection.execute(update(table).where(table.c.id == row["id"]).values(state="parked"))
    (row,) = site.unfinished()
    abandoning_fault = "a person abandoned it: it was parked, and no reason was recorded"
    with site.worker.database.write() as connection:
        abandoning.abandon(connection, row, KINDS[row["kind"]])
    found = site.row(made.volume_id)
    assert (found["status"], found["size"], found["fault"]) == ("available", 1, abandoning_fault)
    assert {each["status"] for each in map(site.snapshot_row, made.taken) if each} <= {"available"}

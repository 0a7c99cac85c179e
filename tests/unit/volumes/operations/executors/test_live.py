"""A merge that compute does: it keeps no thread, and is asked for once."""

from typing import Any

import pytest

from stillframe.errors import Cancelled, Parked, ServiceUnavailable
from stillframe.journal.operation import NotYet, Operation, notes_key
from stillframe.volumes.chain.observe import After
from stillframe.volumes.operations import snapshots
from stillframe.volumes.operations.executors import live
from tests.unit.builders import VOLUME, new_id
from tests.unit.volumes import fakes
from tests.unit.volumes.site import Site

FILES = live.MergedFiles(file_to_merge="a", merge_target_file="b")
ARGS = live.MergeLive(bytes=7, bandwidth_mib=0, info=FILES)
ASKED = snapshots.DeleteSnapshot(
    volume_id=VOLUME,
    backend="local",
    share="/",
    format="qcow2",
    active_before="a",
    status_before="in-use",
    info_before={},
    after=After(active="b", format="qcow2", snapshots={}, removed=(), holds={}),
)
RUNNING: dict[str, Any] = {"id": "of-compute", "status": "running", "bytes_done": 1, "bytes_total": 4, "fault": None}


class Merge:
    """The step, asked again and again as the journal would, and what compute says of it each time."""

    def __init__(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site, self.asked, self.id = site, 0, new_id()
        self.notes: dict[str, Any] = {}
        self.answer: dict[str, Any] | None = RUNNING
        compute = fakes.compute(site.worker)
        monkeypatch.setattr(compute, "merge", self._ask)
        monkeypatch.setattr(compute, "merge_status", lambda _id: self.answer)

    def _ask(self, *_arguments: Any) -> None:
        self.asked += 1

    def look(self) -> dict[str, Any]:
        notes = {notes_key("MergeLive-1"): self.notes}
        operation = Operation(self.id, "delete_snapshot", "running", ASKED, [], 0, notes, 1, 0, "r", at="MergeLive-1")
        return live.LIVE["MergeLive"].do(self.site.worker, operation, ARGS)

    def wait(self) -> NotYet:
        with pytest.raises(NotYet) as told:
            self.look()
        self.notes = told.value.notes
        return told.value


@pytest.fixture
def merge(site: Site, monkeypatch: pytest.MonkeyPatch) -> Merge:
    return Merge(site, monkeypatch)


def test_a_merge_keeps_no_thread_and_is_asked_for_once(merge: Merge) -> None:
    waits = [merge.wait().seconds for _ in range(400)]
    assert merge.asked == 1
    assert waits == sorted(waits)
    assert waits[-1] == live.LONGEST_LOOK_SECONDS
    assert merge.notes["shown"] == 25
    merge.answer = {**RUNNING, "status": "done"}
    assert merge.look() == {"bytes": 7}


def test_what_compute_tries_again_is_told_and_waited_for(merge: Merge) -> None:
    merge.answer = {**RUNNING, "fault": {"message": "the share is full"}}
    with pytest.raises(ServiceUnavailable, match="the share is full"):
        merge.look()


@pytest.mark.parametrize(("details", "merged"), [({"merged": True}, True), ({"begun": True}, True), ({"begun": False}, False)])
def test_a_merge_that_was_abandoned_or_abandoned_within_is_told_as_such(
    merge: Merge, details: dict[str, bool], merged: bool
) -> None:
    merge.wait()
    merge.answer = {**RUNNING, "status": "error", "fault": {"message": "why", "details": details}}
    with pytest.raises(Cancelled) as told:
        merge.look()
    assert told.value.details == {"merged": merged}


@pytest.mark.parametrize(("status", "error"), [("parked", Parked), ("cancelled", Cancelled), ("error", Cancelled)])
def test_how_it_ended_is_told(merge: Merge, status: str, error: type[Exception]) -> None:
    merge.wait()
    merge.answer = {**RUNNING, "status": status, "fault": {"message": "why", "details": {}}}
    with pytest.raises(error, match="why") as told:
        merge.look()
    # Both are parked then, and each has to be retried.
    assert (f"retry {merge.id}" in told.value.message) is (error is Parked)  # type: ignore[attr-defined]


def test_a_merge_that_compute_does_not_know_is_asked_about_again(merge: Merge) -> None:
    merge.answer = None
    with pytest.raises(ServiceUnavailable, match="does not know merge"):
        merge.look()

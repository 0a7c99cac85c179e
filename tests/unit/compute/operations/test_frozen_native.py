"""Native snapshots inside the window: all or none in time, nothing of an earlier attempt, and what a set says then."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.compute.operations import discard, switch
from stillframe.compute.operations.frozen_native import LATE, TOKEN_KEY, Snapshots, SwitchWithSnapshots, are_in_window
from stillframe.compute.operations.snapshot_intents import NativeDisk
from stillframe.compute.quiesce import bounded
from stillframe.errors import BadRequest, Conflict, Parked, QuiesceRefused, ServiceUnavailable, StepFailed, StillframeError
from stillframe.journal.operation import Document, NotYet, Operation
from tests.unit.builders import OTHER_VOLUME, VOLUME
from tests.unit.compute import intents

NATIVES = tuple(
    NativeDisk(volume_id=volume_id, target=target, before=f"iscsi {target}/1", size=1 << 30)
    for volume_id, target in ((VOLUME, "vdb"), (OTHER_VOLUME, "vdc"))
)
ASKED = intents.assisted_snapshot(natives=NATIVES)
KEPT = {"snapshots": {VOLUME: f"of {VOLUME}", OTHER_VOLUME: f"of {OTHER_VOLUME}"}, "errors": {}}


class Storage:
    """Block storage, whose snapshots come to be in ``status`` at once; or it answers with ``refusal``."""

    def __init__(self, status: str = "available", refusal: Exception | None = None) -> None:
        self._status, self._refusal = status, refusal
        self.labelled: dict[str, Document] = {}
        self.deleted: list[str] = []
        self.undeletable = False

    def create_snapshot(self, volume_id: str, wanted: Document) -> Document:
        if self._refusal is not None and volume_id == VOLUME:
            raise self._refusal
        assert wanted["metadata"][TOKEN_KEY] == "t"
        return {"id": f"of {volume_id}", "status": self._status, "fault": None}

    def snapshot(self, snapshot_id: str) -> Document:
        return {"id": snapshot_id, "status": self._status}

    def snapshot_labelled(self, volume_id: str, _key: str, _value: str) -> Document | None:
        return self.labelled.get(volume_id)

    def delete_snapshot(self, snapshot_id: str) -> None:
        if self.undeletable:
            raise BadRequest("it is being made")
        self.deleted.append(snapshot_id)


def around(storage: Storage, required: bool = False, seconds: float = 0.0) -> tuple[Snapshots, list[str], Callable[[], None]]:
    """Returns the snapshots of one attempt, what happens, and the call inside the window."""
    snapshots, happened = Snapshots(storage, ASKED, "t"), list[str]()
    return snapshots, happened, SwitchWithSnapshots(snapshots, lambda: happened.append("switch"), required, seconds)


def test_the_disks_are_switched_when_every_snapshot_is_there() -> None:
    snapshots, happened, call = around(Storage(), seconds=60)
    call()
    assert (happened, snapshots.evidence()) == (["switch"], KEPT)


def late(call: Callable[[], None]) -> bounded.Late:
    with pytest.raises(bounded.Late, match="within freeze_deadline_seconds") as told:
        call()
    return told.value


def test_what_only_lasts_is_kept_and_the_disks_are_switched_after_the_thaw() -> None:
    snapshots, happened, call = around(Storage("creating"))
    found = late(call)
    assert (happened, str(found)) == ([], LATE)
    found.finish()
    assert (happened, snapshots.evidence()) == (["switch"], KEPT)


def test_what_must_be_frozen_is_taken_back_then() -> None:
    _, happened, call = around(Storage("creating"), required=True)
    with pytest.raises(QuiesceRefused, match="nothing is kept"):
        late(call).finish()
    assert happened == []


@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        (Storage(refusal=Conflict("over quota")), "over quota"),
        (Storage(refusal=ServiceUnavailable("away")), "away"),
        (Storage(refusal=RuntimeError("secret")), "asked in vain .RuntimeError"),
        (Storage("error"), "could not take the snapshot"),
    ],
)
def test_a_refusal_ends_the_set_and_freezes_the_guest_no_second_time(storage: Storage, reason: str) -> None:
    _, happened, call = around(storage, seconds=60)
    with pytest.raises(StepFailed, match=reason) as told:
        late(call).finish()
    assert (happened, told.value.may_retry, "secret" in told.value.message) == ([], False, False)


def test_the_window_bounds_it() -> None:
    snapshots = Snapshots(Storage("creating"), ASKED, "t")
    inside = SwitchWithSnapshots(snapshots, lambda: None, False, 3600).within(lambda: 0.0)
    late(inside).finish()


def operation(**evidence: Document) -> Operation[Any]:
    return Operation("op", "assisted_snapshot", "running", ASKED, [], 2, evidence, 1, 0, "r", at="discard")


def discarded(storage: Storage, undo: bool = False) -> Document | None:
    worker: Any = SimpleNamespace(storage=storage)
    verb, args = discard.VERBS["discard"], discard.Discard(token="t")
    if undo:
        assert verb.undo is not None
        verb.undo(worker, operation(), args)
        return {}
    return verb.do(worker, operation(), args)


@pytest.mark.parametrize("undo", [False, True])
def test_nothing_of_an_earlier_attempt_is_left(undo: bool) -> None:
    storage = Storage()
    assert discarded(storage, undo) == {}
    storage.labelled = {VOLUME: {"id": "old", "status": "available"}, OTHER_VOLUME: {"id": "goes", "status": "deleting"}}
    for undeletable, deleted in ((True, []), (False, ["old"])):
        storage.undeletable = undeletable
        with pytest.raises(NotYet) as told:
            discarded(storage, undo)
        assert isinstance(told.value.why, StillframeError)
        assert storage.deleted == deleted


def test_after_the_switch_nothing_is_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when nobody recorded it, or the disks are not what they should be."""

    answers: list[Document | Exception | None] = []

    def done(_worker: object, _operation: object, _args: object) -> Document | None:
        answer = answers.pop()
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(switch, "VERBS", {"switch": SimpleNamespace(done=done)})
    verb, args = discard.VERBS["discard"], discard.Discard(token="t")
    assert verb.done(None, operation(switch={"switched": True}), args) == {}
    found: tuple[tuple[Document | Exception | None, Document | None], ...]
    found = (({"switched": True}, {}), (None, None), (Parked("strange"), {}))
    for answer, wanted in found:
        answers.append(answer)
        assert verb.done(None, operation(), args) == wanted


def test_where_no_disk_is_switched_the_record_alone_knows() -> None:
    alone = intents.assisted_snapshot(disks=(), natives=NATIVES)
    assert are_in_window(alone)
    found = Operation("op", "assisted_snapshot", "running", alone, [], 4, {}, 1, 0, "r")
    assert switch.VERBS["switch"].done(None, found, switch.SwitchDisks(token="t")) is None
    assert not are_in_window(intents.assisted_snapshot(natives=NATIVES, active=False))
    assert not are_in_window(intents.assisted_snapshot())

"""The deletion of a set: a volume that is busy is waited for, what cannot be deleted is told, the rest goes."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.compute.operations import delete_set
from stillframe.compute.operations.delete_set import DeleteAssistedSnapshot
from stillframe.db import assisted_snapshots, operations
from stillframe.db.engine import Database
from stillframe.db.values import NewAssistedSnapshot
from stillframe.errors import Busy, Conflict, ServiceUnavailable, StepFailed, StillframeError
from stillframe.journal import record, typed
from stillframe.journal.operation import NotYet, Operation, notes_key
from stillframe.journal.record import Journal, Request, this_process
from tests.unit.builders import SERVER, new_id
from tests.unit.compute import fakes


class Storage(fakes.Storage):
    """Each snapshot has answers to the request that deletes it, one after the other: an error, or None for accepted."""

    def __init__(self, answers: dict[str, list[StillframeError | None]]) -> None:
        super().__init__()
        self.answers = answers
        self.status = dict.fromkeys(answers, "available")
        self.owners = dict.fromkeys(answers, "demo")

    def snapshot(self, snapshot_id: str) -> dict[str, Any] | None:
        status = self.status.get(snapshot_id)
        if status == "deleting":
            del self.status[snapshot_id]  # gone at the next look
        about = {"progress": "50%", "project_id": self.owners[snapshot_id]}
        shown = {f"os-extended-snapshot-attributes:{name}": value for name, value in about.items()}
        return {"status": status, **shown} if status else None

    def delete_snapshot(self, snapshot_id: str) -> None:
        answer = self.answers[snapshot_id].pop(0)
        if answer is not None:
            raise answer
        self.status[snapshot_id] = "deleting"


def asked(snapshot_ids: list[str]) -> Request:
    return delete_set.request(DeleteAssistedSnapshot(set_id=new_id(), server_id=SERVER), snapshot_ids, "r")


class Deletion:
    """The one step of a set's deletion, asked again and again as the journal would."""

    def __init__(self, storage: Storage, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.worker = fakes.worker(database, tmp_path, [], monkeypatch, storage)
        self.asked = asked(list(storage.answers))
        self.notes: dict[str, Any] = {}
        self.waits: list[NotYet] = []

    def look(self) -> None:
        """Raises NotYet for as long as it waits."""
        row: Any = {
            "id": self.asked.id or new_id(),
            "service": self.asked.service,
            "kind": self.asked.kind,
            "state": "running",
            "intent": typed.document(self.asked.intent),
            "version": 1,
            "plan": [step.document() for step in self.asked.plan],
            "step": 0,
            "evidence": {notes_key("delete"): self.notes},
            "epoch": 1,
            "attempts": 0,
            "request_id": "r",
            "project_id": "demo",
            "fault": None,
        }
        operation = Operation.from_row(row, delete_set.KIND)
        delete_set.KIND.verbs["delete"].do(self.worker, operation, operation.plan[0].args)

    def run(self) -> None:
        for _ in range(1000):
            try:
                self.look()
            except NotYet as waiting:
                self.waits.append(waiting)
                self.notes = json.loads(json.dumps(waiting.notes))
            else:
                return
        raise AssertionError(f"it does not end: {self.notes}")


def run(storage: Storage, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deletion:
    deletion = Deletion(storage, database, tmp_path, monkeypatch)
    deletion.run()
    return deletion


def test_a_busy_volume_is_waited_for(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage({new_id(): [Busy("a merge"), Busy("a merge"), None], new_id(): [None]})
    deletion = run(storage, database, tmp_path, monkeypatch)
    assert storage.status == {}
    assert [each.why.message for each in deletion.waits if each.why] == ["a merge", "a merge"]


def test_a_snapshot_of_another_project_is_left_alone(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its volume was transferred after the deletion was asked for."""
    storage = Storage({new_id(): [None], new_id(): [None]})
    kept = list(storage.answers)[1]
    storage.owners[kept] = "another project"
    run(storage, database, tmp_path, monkeypatch)
    assert storage.status == {kept: "available"}


def test_it_looks_soon_at_first_and_then_seldom(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deletion = run(Storage({new_id(): [*[Busy("a merge")] * 300, None]}), database, tmp_path, monkeypatch)
    seconds = [each.seconds for each in deletion.waits[:300]]
    assert seconds == sorted(seconds)
    assert (seconds[0], seconds[-1]) == (0.1, 5.0)


def test_but_not_for_ever(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delete_set, "PATIENCE_SECONDS", -1.0)
    held, free = new_id(), new_id()
    storage = Storage({held: [Busy("a parked merge")], free: [None]})
    with pytest.raises(StepFailed, match="a parked merge") as told:
        run(storage, database, tmp_path, monkeypatch)
    assert told.value.details["failed"] == {held: "a parked merge"}
    assert storage.status == {held: "available"}


def test_what_depends_on_a_snapshot_is_told_at_once(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, free = new_id(), new_id()
    storage = Storage({held: [Conflict("a linked volume reads it")], free: [None]})
    with pytest.raises(StepFailed, match="a linked volume reads it"):
        run(storage, database, tmp_path, monkeypatch)
    assert storage.status == {held: "available"}


def test_a_service_that_is_away_fails_nothing(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage({new_id(): [ServiceUnavailable("away"), None]})
    with pytest.raises(ServiceUnavailable):
        run(storage, database, tmp_path, monkeypatch)
    run(storage, database, tmp_path, monkeypatch)
    assert storage.status == {}


def test_for_a_deletion_that_waits_nobody_stays_and_the_others_go(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, free = new_id(), new_id()
    storage = Storage({stuck: [None], free: [None]})
    shown = storage.snapshot

    def snapshot(snapshot_id: str) -> dict[str, Any] | None:
        if snapshot_id == stuck and storage.status[stuck] == "deleting":
            return {"status": "deleting", "fault": "no room", "os-extended-snapshot-attributes:progress": "3%"}
        return shown(snapshot_id)

    monkeypatch.setattr(storage, "snapshot", snapshot)
    deletion = Deletion(storage, database, tmp_path, monkeypatch)
    for _ in range(10):
        with pytest.raises(NotYet) as told:
            deletion.look()
        deletion.notes = told.value.notes
    assert told.value.why is not None
    assert told.value.why.message == f"snapshot {stuck}: no room"
    assert storage.status == {stuck: "deleting"}


def ended(database: Database, storage: Storage, deletion: Deletion, error: StepFailed | None) -> Any:
    """The set's row after the operation has ended so."""
    assert isinstance(deletion.asked.intent, DeleteAssistedSnapshot)
    set_id = deletion.asked.intent.set_id
    entries = [{"volume_id": new_id(), "snapshot_id": each, "status": "available", "error": None} for each in storage.answers]
    row: NewAssistedSnapshot = {
        "id": set_id,
        "project_id": "demo",
        "user_id": "u",
        "server_id": SERVER,
        "metadata": {},
        "status": "deleting",
        "progress": 50,
        "quiesce": "preferred",
        "volumes": entries,
        "excluded_disks": [],
    }
    operation: Any = SimpleNamespace(intent=deletion.asked.intent)
    with database.write() as connection:
        assisted_snapshots.insert(connection, row)
        delete_set.KIND.settle(connection, operation, "undone", error.to_document() if error else None)
        found = assisted_snapshots.get(connection, set_id, None)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("others", "status", "entries"),
    [
        ([Conflict("a linked volume reads it")], "available", ["available", "available"]),
        ([None], "error", ["available", "deleted"]),
    ],
)
def test_a_set_says_of_each_volume_what_became_of_it(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: Any, status: str, entries: list[str]
) -> None:
    storage = Storage({new_id(): [Conflict("a linked volume reads it")], new_id(): others})
    deletion = Deletion(storage, database, tmp_path, monkeypatch)
    with pytest.raises(StepFailed) as told:
        deletion.run()
    found = ended(database, storage, deletion, told.value)
    assert found["status"] == status
    assert [each["status"] for each in found["volumes"]] == entries
    assert found["volumes"][0]["error"] == "a linked volume reads it"
    assert "a linked volume reads it" in found["fault"]


def test_what_nobody_saw_is_not_called_deleted(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage({new_id(): [None]})
    found = ended(database, storage, Deletion(storage, database, tmp_path, monkeypatch), StepFailed("an error of the program"))
    assert found["status"] == "error"
    assert [each["status"] for each in found["volumes"]] == ["available"]


@pytest.mark.parametrize(("many", "answers"), [(True, True), (False, True), (True, False)])
def test_many_that_wait_are_looked_at_with_one_question(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: bool, answers: bool
) -> None:
    questions: list[int] = []
    ids = [new_id() for _ in range(record.FEW + many)]

    class Listed(Storage):
        def snapshots_in_deletion(self) -> set[str]:
            questions.append(1)
            if not answers:
                raise ServiceUnavailable("away")
            return set(ids[1:])

    worker = fakes.worker(database, tmp_path, [], monkeypatch, Listed({}))
    journal = Journal(database, "compute", this_process("here"), 30)
    with database.write() as connection:
        for snapshot_id in ids:
            record.submit(connection, asked([snapshot_id]))
    for operation in journal.claim_all():
        notes = {"asked": operation.plan[0].args["snapshot_ids"]}
        journal.wait(operation, notes_key("delete"), NotYet(600, notes))
    told: list[str] = []
    delete_set.look(worker, told.append)
    assert len(questions) == many
    with database.read() as connection:
        found = [Operation.from_row(row) for each in told if (row := operations.get(connection, each))]
    gone = [each.plan[0].args["snapshot_ids"] for each in found]
    assert gone == ([[ids[0]]] if many and answers else [])

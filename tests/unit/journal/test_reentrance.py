"""An operation interrupted anywhere, any number of times, ends as if it had not been."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, event

from stillframe.db.engine import Database
from stillframe.db.migrations import upgrade
from stillframe.db.tables import operation_resources, operations
from tests.unit.journal.fakes import Clock, Step, WorkerContext, drive, settled, submit

NAMES = ("one", "two", "three", "four")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One database for thousands of operations; power loss is not what is tested here, so it need not sync."""
    path: Path = tmp_path_factory.mktemp("journal") / "stillframe.sqlite"
    database = Database(f"sqlite:///{path}")
    event.listen(database.engine, "connect", lambda connection, _record: connection.execute("PRAGMA synchronous=OFF"))
    upgrade(database)
    yield database
    database.close()


@pytest.fixture(scope="module")
def clock() -> Iterator[Clock]:
    """Also keeps the many failures asked for here out of the log."""
    logging.disable(logging.CRITICAL)
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Clock().install(monkeypatch)
    logging.disable(logging.NOTSET)


def ending(database: Database, clock: Clock, steps: Sequence[Step], worker: WorkerContext) -> tuple[str, frozenset[str]]:
    """How an operation of these steps ends: its state, and what is left in the world."""
    with database.write() as connection:
        connection.execute(delete(operation_resources))
        connection.execute(delete(operations))
    operation_id = submit(database, [step.name for step in steps])
    state = drive(database, clock, steps, worker, operation_id)["state"]
    followed = settled(database, operation_id)
    followed.pop("parked", None)
    assert followed == ({} if state == "parked" else {state: 1})
    return state, frozenset(worker.facts)


@st.composite
def plans(draw: st.DrawFn) -> tuple[Step, ...]:
    faults: Any = st.sampled_from(["none", "none", "none", "refuses", "lies", "half", "waits", "not yet", "does not see"])
    marks: Any = st.sampled_from(["never", "never", "never", "start", "done"])
    return tuple(
        Step(name, draw(st.booleans()), draw(st.booleans()), draw(marks), draw(faults))
        for name in NAMES[: draw(st.integers(1, 4))]
    )


SNAPSHOT = (Step("one", sees=False), Step("two"), Step("three", mark="done", fault="lies"), Step("four", sees=False))
REFUSED = (Step("one", sees=False), Step("two"), Step("three", fault="half"))
MERGE = (Step("one", sees=False, undoes=False), Step("two", mark="start", undoes=False, fault="waits"), Step("three"))
PATIENT = (Step("one"), Step("two", mark="start", fault="not yet"), Step("three", fault="not yet"))
STUCK = (Step("one"), Step("two", mark="start", fault="half"), Step("three"))


@settings(max_examples=4)  # each is run some fifty times; the next test draws from more plans
@given(plans())
@example(SNAPSHOT)
@example(REFUSED)
@example(MERGE)
@example(PATIENT)
@example(STUCK)
def test_a_crash_at_any_single_moment_changes_nothing_about_the_end(
    shared: Database, clock: Clock, steps: tuple[Step, ...]
) -> None:
    whole = WorkerContext()
    wanted = ending(shared, clock, steps, whole)
    for moment in range(1, whole.moments + 1):
        worker = WorkerContext(crashes=frozenset({moment}))
        assert ending(shared, clock, steps, worker) == wanted, f"the worker died at moment {moment}"


@settings(max_examples=150)
@given(plans(), st.frozensets(st.integers(1, 60), max_size=12))
def test_any_number_of_crashes_changes_nothing_about_the_end(
    shared: Database, clock: Clock, steps: tuple[Step, ...], crashes: frozenset[int]
) -> None:
    wanted = ending(shared, clock, steps, WorkerContext())
    assert ending(shared, clock, steps, WorkerContext(crashes=crashes)) == wanted


@settings(max_examples=40)
@given(plans())
def test_an_operation_whose_steps_succeed_ends_with_all_of_them_done(
    shared: Database, clock: Clock, steps: tuple[Step, ...]
) -> None:
    willing = tuple(Step(step.name, step.sees, step.undoes, step.mark) for step in steps)
    assert ending(shared, clock, willing, WorkerContext()) == ("done", frozenset(step.name for step in steps))


@st.composite
def moody_plans(draw: st.DrawFn) -> tuple[Step, ...]:
    """Steps that can all be put back, up to at most one from which there is no way back; each may turn bad later."""
    length = draw(st.integers(1, 4))
    turning = draw(st.integers(0, length))
    later = st.sampled_from([None, None, 1, 2, 3])
    return tuple(
        Step(
            name,
            sees=draw(st.booleans()),
            mark=draw(st.sampled_from(["start", "done"])) if number == turning else "never",
            refuses_from=draw(later),
            blind_from=draw(later),
        )
        for number, name in enumerate(NAMES[:length])
    )


@settings(max_examples=150)
@given(moody_plans(), st.frozensets(st.integers(1, 40), max_size=4))
def test_an_operation_is_done_whole_or_undone_whole_and_never_undone_past_no_return(
    shared: Database, clock: Clock, steps: tuple[Step, ...], crashes: frozenset[int]
) -> None:
    worker = WorkerContext(crashes=crashes)
    state, facts = ending(shared, clock, steps, worker)
    if state == "done":
        assert facts == {step.name for step in steps}
    if state == "undone":
        assert facts == set()
        begun = [step.name for step in steps if step.mark == "start" and f"do {step.name}" in worker.log]
        assert begun == [], "a step that cannot be put back had begun"

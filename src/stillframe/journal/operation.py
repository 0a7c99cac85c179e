"""The values of the journal: an operation, its steps, and the verbs that know how to do them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Generic, Literal

from sqlalchemy import Connection
from typing_extensions import TypeVar

from stillframe.db.rows import OperationRow
from stillframe.errors import Conflict, StillframeError
from stillframe.journal import typed
from stillframe.journal.typed import Document as Document
from stillframe.journal.typed import NotUnderstood, Step

# What was asked, and what a step is told; Any for code that works with every kind of operation.
Asked = TypeVar("Asked", default=Any)
Asked_co = TypeVar("Asked_co", covariant=True, default=Any)
Asked_contra = TypeVar("Asked_contra", contravariant=True, default=Any)
Told = TypeVar("Told", default=Any)

AT_WORK = "at work"  # in the notes of a step that waits for what it began itself
_WAITS = " waits"
BEGINS_NOTED = "what begins is noted"  # in the evidence of an operation that no release without begun_key has worked on


class NotYet(Exception):
    """A step waits for somebody else: its thread takes other work, and the step is asked again after ``seconds``.

    That is not a failure: it counts no attempt and does not make the operation go back. ``notes`` are what the step wants to
    know then; the journal keeps them as ``operation.notes``. Those of a wait of moments may be lost with the process: a step
    that must not act before they are durable gives 0 seconds. ``why`` is shown meanwhile, in the words of what it waits for.
    ``at_work``: what the step began continues meanwhile, in QEMU for example. Of a kind of which only so many may run at once
    it counts as one that runs, its attempts still count, and it is looked at when it says, however many others wait.
    """

    def __init__(
        self, seconds: float, notes: Document | None = None, why: StillframeError | None = None, at_work: bool = False
    ) -> None:
        super().__init__(f"look again in {seconds:g} s")
        self.seconds = seconds
        self.notes = notes or {}
        self.why = why
        self.at_work = at_work


@dataclass(frozen=True)
class Operation(Generic[Asked_co]):
    """One operation as its row shows it. ``evidence`` holds, by the key of a step, what it found or made. ``not_understood``
    says why ``intent`` and the arguments in ``plan`` are still documents: another release wrote them."""

    id: str
    kind: str
    state: str
    intent: Asked_co
    plan: Sequence[Step]
    step: int
    evidence: Mapping[str, Document]
    epoch: int
    attempts: int
    request_id: str
    fault: Document | None = None  # the error with which it was last given back
    project_id: str = ""
    at: str = ""  # the key of the step that is being asked now; not part of the row
    not_understood: str = ""

    def notes(self, step: str | None = None) -> Document:
        """What the step of that key, else the one that is asked now, noted when it last said ``NotYet``."""
        known = self.evidence.get(notes_key(self.at if step is None else step), {})
        return {name: value for name, value in known.items() if name != AT_WORK}

    @property
    def has_waited(self) -> bool:
        return any(name.endswith(_WAITS) for name in self.evidence)

    @property
    def is_at_work(self) -> bool:
        """Tells whether what a step of it began may continue while no worker watches it."""
        return any(AT_WORK in known for name, known in self.evidence.items() if name.endswith(_WAITS))

    def may_have_begun(self, step: str, verb: "Verb[Any, Any]") -> bool:
        """Whether the step of that key may have been begun, which is recorded before it is of every verb with a point of no
        return. What nothing is recorded of may have begun."""
        if verb.no_return == "start":
            return step in self.evidence
        noted = verb.no_return == "done" and BEGINS_NOTED in self.evidence
        return not noted or step in self.evidence or begun_key(step) in self.evidence

    @staticmethod
    def from_row(row: OperationRow, kind: "Kind[Any] | None" = None) -> "Operation[Any]":
        """Returns the operation of a row, with the intent and the arguments that ``kind`` has; without a kind as documents."""
        not_understood = ""
        try:
            intent, plan = _understood(row, kind)
        except NotUnderstood as error:
            intent, plan = row["intent"], [_step(each, None) for each in row["plan"]]
            not_understood = str(error)
        return Operation(
            id=row["id"],
            kind=row["kind"],
            state=row["state"],
            intent=intent,
            plan=plan,
            step=row["step"],
            evidence=row["evidence"],
            epoch=row["epoch"],
            attempts=row["attempts"],
            request_id=row["request_id"],
            fault=row["fault"],
            project_id=row["project_id"],
            not_understood=not_understood,
        )


def _understood(row: OperationRow, kind: "Kind[Any] | None") -> tuple[Any, list[Step]]:
    """Raises NotUnderstood."""
    asked: Any = row["intent"]
    if kind is not None:
        asked = typed.read_intent(kind.intent, asked, row["version"])
    return asked, [_step(each, kind) for each in row["plan"]]


def _step(stored: Document, kind: "Kind[Any] | None") -> Step:
    """Raises NotUnderstood."""
    name, args = str(stored["verb"]), dict(stored["args"])
    named = str(stored.get("key") or args.get("key") or name)
    verb = kind.verbs.get(name) if kind is not None else None
    if verb is None:
        return Step(name, named, args)
    args.pop("key", None)  # where releases before 0027 had it
    return Step(name, named, typed.read(verb.args, args, f"step {name}"))


@dataclass(frozen=True)
class Verb(Generic[Asked_contra, Told]):
    """How one kind of step is done; ``args`` is the class of what it is told.

    ``done(worker, operation, args)`` looks at the files, libvirt and the rows and returns evidence if the step is done, None if
    it is not; it raises when they do not answer (unknown is not undone). ``worker`` is the service's worker context. ``do``
    performs it and returns evidence. ``undo`` puts back what ``do`` may have begun; None when there is nothing to put back.
    ``no_return`` says from where on the operation only goes forward: once the step is "done", or from its "start" because a
    half done step cannot be put back. All functions may be called again after a crash at any point. ``done`` and ``do`` raise
    NotYet to wait. A step with a point of no return that was never begun turns round even where its ``done`` raises Parked.
    """

    done: Callable[[Any, Operation[Asked_contra], Told], Document | None]
    do: Callable[[Any, Operation[Asked_contra], Told], Document]
    undo: Callable[[Any, Operation[Asked_contra], Told], None] | None = None
    no_return: Literal["never", "start", "done"] = "never"
    args: type[Told] = field(kw_only=True)


def notes_key(step: str) -> str:
    """Where the notes of a waiting step are kept: apart from its evidence, which says that it was begun or is done."""
    return f"{step}{_WAITS}"


def begun_key(step: str) -> str:
    """Returns the key by which is recorded, before its ``do``, that a step with the mark "done" was begun: it may still not be
    done."""
    return f"{step} begun"


def is_whole(outcome: str, fault: Document | None) -> bool:
    """Tells whether an operation that can only go forward once it has begun left everything as it was: it went back, or a
    person abandoned it before."""
    return outcome == "undone" or (outcome == "abandoned" and not (fault and fault["details"].get("begun")))


@dataclass(frozen=True)
class Kind(Generic[Asked]):
    """One kind of operation: what is asked, its verbs by their names, and how rows follow its outcome.

    ``settle(connection, operation, outcome, fault)`` changes resource rows in the transaction that ends the operation;
    ``outcome`` is done, undone, parked or abandoned, ``fault`` an error document or None. Abandoned: a person ended what
    was parked where it stood, nothing was put back; ``fault["details"]["begun"]`` tells whether a step with a point of no
    return may have begun. ``progressed`` is called in the transaction that records a step. ``afterwards`` tells the person
    what can be done then.
    """

    verbs: Mapping[str, Verb[Asked, Any]]
    settle: Callable[[Connection, Operation[Asked], str, Document | None], None]
    progressed: Callable[[Connection, Operation[Asked]], None] | None = None
    afterwards: str = ""
    intent: type[Asked] | UnionType = field(kw_only=True)  # a union: its classes have tags

    def __post_init__(self) -> None:
        """Raises ValueError for a verb that is stored by another name than its steps are made with."""
        wrong = {name: named for name, verb in self.verbs.items() if (named := typed.verb_of(verb.args)) != name}
        if wrong:
            raise ValueError(f"verbs are called otherwise than their arguments: {wrong}")


def intent_of(row: OperationRow, kind: type[Asked]) -> Asked:
    """Returns what was asked, as a row of the kind that has this class says. Raises Conflict for what another release stored in
    a way that this one does not know."""
    try:
        return typed.read_intent(kind, row["intent"], row["version"])
    except NotUnderstood as error:
        raise Conflict(
            f"operation {row['id']} ({row['kind']}) was begun by another release of Stillframe, and this one does not"
            f" understand it ({error}); let that release end it"
        ) from error

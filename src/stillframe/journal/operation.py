"""The values of the journal: an operation, its steps, and the verbs that know how to do them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection

from stillframe.db.rows import Row
from stillframe.errors import StillframeError

Document = dict[str, Any]

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
class Operation:
    """One operation as its row shows it. ``evidence`` holds, by verb, what a step found or made."""

    id: str
    kind: str
    state: str
    intent: Document
    plan: Sequence[Document]
    step: int
    evidence: Mapping[str, Document]
    epoch: int
    attempts: int
    request_id: str
    fault: Document | None = None  # the error with which it was last given back
    project_id: str = ""
    at: str = ""  # the key of the step that is being asked now; not part of the row

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

    def may_have_begun(self, step: str, verb: "Verb") -> bool:
        """Whether the step of that key may have been begun, which is recorded before it is of every verb with a point of no
        return. What nothing is recorded of may have begun."""
        if verb.no_return == "start":
            return step in self.evidence
        noted = verb.no_return == "done" and BEGINS_NOTED in self.evidence
        return not noted or step in self.evidence or begun_key(step) in self.evidence

    @staticmethod
    def from_row(row: Row) -> "Operation":
        return Operation(**{name: row[name] for name in Operation.__dataclass_fields__ if name != "at"})


@dataclass(frozen=True)
class Verb:
    """How one kind of step is done.

    ``done(world, operation, args)`` looks at the files, libvirt and the rows and returns evidence if the step is done, None if
    it is not; it raises when they do not answer (unknown is not undone). ``world`` is the worker context of the service. ``do``
    performs it and returns evidence. ``undo`` puts back what ``do`` may have begun; None when there is nothing to put back.
    ``no_return`` says from where on the operation only goes forward: once the step is "done", or from its "start" because a
    half done step cannot be put back. All functions may be called again after a crash at any point. ``done`` and ``do`` raise
    NotYet to wait. A step with a point of no return that was never begun turns round even where its ``done`` raises Parked.
    """

    done: Callable[[Any, Operation, Document], Document | None]
    do: Callable[[Any, Operation, Document], Document]
    undo: Callable[[Any, Operation, Document], None] | None = None
    no_return: Literal["never", "start", "done"] = "never"


def notes_key(step: str) -> str:
    """Where the notes of a waiting step are kept: apart from its evidence, which says that it was begun or is done."""
    return f"{step}{_WAITS}"


def begun_key(step: str) -> str:
    """Returns the key by which is recorded, before its ``do``, that a step with the mark "done" was begun: it may still not be
    done."""
    return f"{step} begun"


def step(verb: str, **args: Any) -> Document:
    """Returns a step of a plan, as the journal stores it."""
    return {"verb": verb, "args": {"key": verb, **args}}


def key(step: Document) -> str:
    """The name a step's evidence is kept by, and its failpoints: its verb, or its own where a verb comes again."""
    return str(step.get("key") or step["verb"])


def is_whole(outcome: str, fault: Document | None) -> bool:
    """Tells whether an operation that can only go forward once it has begun left everything as it was: it went back, or a
    person abandoned it before."""
    return outcome == "undone" or (outcome == "abandoned" and not (fault and fault["details"].get("begun")))


Settle = Callable[[Connection, Operation, str, Document | None], None]


@dataclass(frozen=True)
class Kind:
    """One kind of operation: its verbs, and how rows follow its outcome.

    ``settle(connection, operation, outcome, fault)`` changes resource rows in the transaction that ends the operation;
    ``outcome`` is done, undone, parked or abandoned, ``fault`` an error document or None. Abandoned: a person ended what
    was parked where it stood, nothing was put back; ``fault["details"]["begun"]`` tells whether a step with a point of no
    return may have begun. ``progressed`` is called in the transaction that records a step. ``afterwards`` tells the person
    what can be done then.
    """

    verbs: Mapping[str, Verb]
    settle: Settle
    progressed: Callable[[Connection, Operation], None] | None = None
    afterwards: str = ""

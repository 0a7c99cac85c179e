"""Every place an operation can be stopped at, made from the plans themselves: a new step brings its own tests."""

from collections.abc import Sequence
from dataclasses import dataclass

from stillframe.chain.steps import Record
from stillframe.journal.failpoints import PHASES, UNDO_PHASES
from stillframe.journal.record import Request
from stillframe.journal.typed import Step
from stillframe.volumes.operations.executors.intents import OnChain
from stillframe.volumes.operations.executors.offline import info_document
from tests.crash.samples import KINDS


@dataclass(frozen=True)
class Place:
    """One place of one kind of operation. ``cause`` is where the operation is made to fail before, when it goes back."""

    name: str
    cause: str = ""

    @property
    def kind(self) -> str:
        return self.name.partition("/")[0]

    @property
    def back(self) -> bool:
        return bool(self.cause)

    def failpoint(self, about: str = "", effect: str = "") -> str:
        """What the environment must say, to stop only operations that name the id ``about``."""
        mark = f"@{about}" if about else ""
        cause = [f"{self.cause}{mark}:fail"] if self.cause else []
        return ",".join([*cause, f"{self.name}{mark}{effect}"])

    def __str__(self) -> str:
        return self.name


def forward(request: Request) -> list[Place]:
    return [Place(f"{request.kind}/{step.key}/{phase}") for n, step in enumerate(request.plan) for phase in _phases(request, n)]


def _phases(request: Request, number: int) -> Sequence[str]:
    """A step that is done before it is begun is only recorded: a document that says already what it is to say."""
    made = [info_document(each.args.active, each.args.overlays) for each in request.plan[:number] if _records(each)]
    step = request.plan[number]
    if not _records(step):
        return PHASES
    assert isinstance(request.intent, OnChain)
    said = [request.intent.info_before, *made]
    return PHASES[2:] if said[-1] == info_document(step.args.active, step.args.overlays) else PHASES


def _records(step: Step) -> bool:
    return isinstance(step.args, Record)


def back(request: Request) -> list[Place]:
    """The places on the way back from the last step that can be undone, in order."""
    last = _last_that_may_fail(request)
    if last is None:
        return []
    cause = f"{request.kind}/{request.plan[last].key}/before"
    verbs = KINDS[request.kind].verbs
    undone = [step for step in reversed(request.plan[: last + 1]) if verbs[step.verb].undo is not None]
    return [Place(f"{request.kind}/{step.key}/{phase}", cause) for step in undone for phase in UNDO_PHASES]


def _last_that_may_fail(request: Request) -> int | None:
    """A step with no return from its start cannot make the operation go back; with the mark for once it is done it can."""
    marks = [KINDS[request.kind].verbs[step.verb].no_return for step in request.plan]
    ends = next((number for number, mark in enumerate(marks) if mark != "never"), len(marks))
    begun = [number for number in range(len(marks)) if "before" in _phases(request, number)]
    return max((number for number in begun if number < ends or (number == ends and marks[number] == "done")), default=None)


def everywhere(request: Request) -> Sequence[Place]:
    return [*forward(request), *back(request)]


def of_kind(request: Request, keys: Sequence[str]) -> bool:
    """Tells whether a real plan, of which these are the keys, has the steps of the sample, whatever their order."""
    return sorted(keys) == sorted(step.key for step in request.plan)

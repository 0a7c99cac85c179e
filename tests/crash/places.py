"""Every place an operation can be stopped at, made from the plans themselves: a new step brings its own tests."""

from collections.abc import Sequence
from dataclasses import dataclass

from stillframe.journal.failpoints import PHASES, UNDO_PHASES
from stillframe.journal.operation import Document, key
from stillframe.journal.record import Request
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
    return [
        Place(f"{request.kind}/{key(step)}/{phase}") for n, step in enumerate(request.plan) for phase in _phases(request, n)
    ]


def _phases(request: Request, number: int) -> Sequence[str]:
    """A step that is done before it is begun is only recorded: a document that says already what it is to say."""
    step = request.plan[number]
    if step["verb"] != "Record":
        return PHASES
    said = [request.intent["info_before"], *(_document(each) for each in request.plan[:number] if each["verb"] == "Record")]
    return PHASES[2:] if said[-1] == _document(step) else PHASES


def _document(step: Document) -> Document:
    return info_document(step["args"]["active"], step["args"]["overlays"])


def back(request: Request) -> list[Place]:
    """The way back from the last step that can be taken back, in the order it is gone."""
    last = _last_that_may_fail(request)
    if last is None:
        return []
    cause = f"{request.kind}/{key(request.plan[last])}/before"
    verbs = KINDS[request.kind].verbs
    undone = [step for step in reversed(request.plan[: last + 1]) if verbs[step["verb"]].undo is not None]
    return [Place(f"{request.kind}/{key(step)}/{phase}", cause) for step in undone for phase in UNDO_PHASES]


def _last_that_may_fail(request: Request) -> int | None:
    """A step that goes only forward from its start turns nothing round; one that does so once it is done may still fail."""
    marks = [KINDS[request.kind].verbs[step["verb"]].no_return for step in request.plan]
    ends = next((number for number, mark in enumerate(marks) if mark != "never"), len(marks))
    begun = [number for number in range(len(marks)) if "before" in _phases(request, number)]
    return max((number for number in begun if number < ends or (number == ends and marks[number] == "done")), default=None)


def everywhere(request: Request) -> Sequence[Place]:
    return [*forward(request), *back(request)]


def of_kind(request: Request, plan: Sequence[Document]) -> bool:
    """Tells whether a real plan has the steps of the sample, whatever their order."""
    return sorted(map(key, plan)) == sorted(map(key, request.plan))

"""Runs one operation: the plan decides what, the verbs know how, the runner only keeps the order and the record."""

import logging
from dataclasses import replace
from typing import Any

from stillframe.context import operation_log
from stillframe.db import operations
from stillframe.db.engine import AWAY
from stillframe.errors import (
    Cancelled,
    Conflict,
    InternalError,
    Parked,
    ServiceUnavailable,
    StepFailed,
    StillframeError,
    from_document,
    of_os_error,
)
from stillframe.journal.failpoints import reached
from stillframe.journal.operation import Document, Kind, NotYet, Operation, Verb, begun_key, notes_key
from stillframe.journal.record import Journal, LostLease
from stillframe.journal.typed import Intent, Step

LOG = logging.getLogger(__name__)
ATTEMPTS_PAST_NO_RETURN = 5  # tries after a refusal: about eight seconds with the journal's pauses
MOST_ATTEMPTS = 15  # about five minutes
_OWN_ERROR = 500  # and above: a defect, ours or of another service, not an answer
# For operations that another release began; their rows stay as they are.
UNKNOWN: Kind[Any] = Kind({}, lambda *_: None, intent=Intent)


def run(journal: Journal, kind: Kind, worker: Any, operation: Operation) -> bool:
    """Runs an operation that we have claimed to its end, or until it must wait. Returns whether what it began continues without
    it (``NotYet.at_work``). Never raises."""
    with operation_log(operation.id, operation.request_id):
        try:
            return _run(journal, kind, worker, operation)
        except LostLease:
            LOG.warning("operation %s is held by another worker now", operation.id)
        except Exception as error:
            LOG.exception("operation %s (%s): unexpected error, a defect of Stillframe", operation.id, operation.kind)
            _return_to_queue(journal, operation, error)
        finally:
            journal.release(operation)
    return False


def _return_to_queue(journal: Journal, operation: Operation, error: Exception) -> None:
    """Gives the operation back, so that it is tried again and not kept for ever; a defect that lasts needs a person."""
    failure = f"the service had an internal error ({type(error).__name__})"
    try:
        if isinstance(error, AWAY) or operation.attempts < MOST_ATTEMPTS:
            journal.postpone(operation, InternalError(failure))
            return
        # Changing the rows after the outcome may be what fails: they stay as they are.
        journal.finish(operation, UNKNOWN, "parked", Parked(f"{failure}, each time; its log holds the cause"))
    except Exception:
        LOG.exception("operation %s could not be released; it is taken up when its lease has ended", operation.id)


def _run(journal: Journal, kind: Kind, worker: Any, operation: Operation) -> bool:
    try:
        _refuse_unknown(kind, operation)
        if operation.state != "undoing":
            return _go_forward(journal, kind, worker, operation)
        _go_back(journal, kind, worker, operation)
    except Parked as error:
        LOG.error("operation %s (%s) is parked: %s", operation.id, operation.kind, error.message)
        journal.finish(operation, UNKNOWN if operation.not_understood else kind, "parked", error)
    return False


def _refuse_unknown(kind: Kind, operation: Operation) -> None:
    """Raises Parked for what another release planned: to continue or go back without some of its steps would be a guess."""
    if operation.not_understood:
        raise Parked(
            f"this release of Stillframe does not understand the {operation.kind} operation ({operation.not_understood}):"
            " another release began it; let that release end it"
        )
    unknown = sorted({step.verb for step in operation.plan} - set(kind.verbs))
    if kind is UNKNOWN or unknown:
        what = f"step {', '.join(unknown)} of " if kind is not UNKNOWN else ""
        raise Parked(
            f"this release of Stillframe does not know {what}operations of the kind {operation.kind}: another release began it;"
            " let that release end it"
        )


def _go_forward(journal: Journal, kind: Kind, worker: Any, operation: Operation) -> bool:
    current = operation
    for number, step in enumerate(operation.plan):
        try:
            current = _one_step(journal, kind, worker, current, number)
        except LostLease:
            raise
        except Parked as error:
            _park_or_go_back(journal, kind, worker, (journal.fresh(current), number, error))
            return False
        except NotYet as waiting:
            journal.wait(journal.fresh(current), notes_key(step.key), waiting)
            return waiting.at_work
        except Exception as error:
            failure = _failure(error, step)
            LOG.warning("operation %s, step %s: %s", operation.id, step.verb, failure.message)
            _undo_or_retry(journal, kind, worker, (journal.fresh(current), number, failure))
            return False
    journal.finish(current, kind, "done", None)
    LOG.info("operation %s (%s) is done", operation.id, operation.kind)
    return False


def _one_step(journal: Journal, kind: Kind, worker: Any, operation: Operation, number: int) -> Operation:
    step = operation.plan[number]
    verb, name = kind.verbs[step.verb], step.key
    operation = replace(operation, at=name)
    evidence = verb.done(worker, operation, step.args)
    if evidence is None:
        operation = _noted(journal, verb, operation, name)
        _pass(operation, name, "before")
        evidence = _do(verb, worker, operation, step)
        _pass(operation, name, "effect")
    elif notes_key(name) in operation.evidence:  # it waited, and what it waited for has ended
        _pass(operation, name, "effect")
    known = {**operation.evidence, name: {**operation.evidence.get(name, {}), **evidence}}
    if operation.has_waited and number < operation.step and known == operation.evidence:
        return operation  # recorded already, and only looked at on the way to the step that waits
    renewed = {"attempts": 0} if number >= operation.step else {}  # the first time the step is done: count anew
    changed = journal.change(
        operation, kind, step=max(number + 1, operation.step), evidence=known, bytes=_bytes(known), **renewed
    )
    _pass(operation, name, "record")
    LOG.debug("operation %s: step %s is recorded", operation.id, step.verb)
    return changed


def _noted(journal: Journal, verb: Verb, operation: Operation, name: str) -> Operation:
    """Records that a step begins, before it does, if that decides later whether the operation can go back."""
    mark = {"never": None, "start": name, "done": begun_key(name)}[verb.no_return]
    if mark is None or mark in operation.evidence:
        return operation
    return replace(journal.change(operation, evidence={**operation.evidence, mark: {}}), at=name)


def _pass(operation: Operation, name: str, phase: str) -> None:
    """A place at which a test may stop this operation."""
    reached(f"{operation.kind}/{name}/{phase}", lambda: f"{operation.intent} {operation.plan}")


def _do(verb: Verb, worker: Any, operation: Operation, step: Step) -> Document:
    """Does the step. After an error it asks ``done`` again, because an error does not mean "not done" (F13)."""
    try:
        return verb.do(worker, operation, step.args)
    except (NotYet, Parked):
        raise
    except Exception as error:
        evidence = verb.done(worker, operation, step.args)
        if evidence is None:
            raise
        LOG.warning("step %s took effect although it failed with: %s", step.verb, error)
        return evidence


def _park_or_go_back(journal: Journal, kind: Kind, worker: Any, failure: tuple[Operation, int, Parked]) -> None:
    """Handles a step that raised Parked. If the step was never begun, we did not cause what was found, and before a point of no
    return no person has to decide: the operation goes back. Otherwise it is parked."""
    operation, number, error = failure
    step = operation.plan[number]
    if operation.may_have_begun(step.key, kind.verbs[step.verb]) or _is_past_no_return(kind, worker, operation):
        raise error
    LOG.warning("operation %s, step %s was never begun: %s", operation.id, step.verb, error.message)
    _begin_undo(journal, kind, worker, (operation, number, Conflict(error.message, **error.details)))


def _undo_or_retry(journal: Journal, kind: Kind, worker: Any, failure: tuple[Operation, int, StillframeError]) -> None:
    operation, number, error = failure
    if isinstance(error, Cancelled):  # what was begun stays as it is; the rows say what that means
        journal.finish(operation, kind, "undone", error)
        return
    try:
        past = _is_past_no_return(kind, worker, operation)
    except Parked:
        raise
    except Exception as unknown:
        # It is not known whether the step of no return was done: the operation may go neither forward nor back yet.
        asked = _failure(unknown, operation.plan[number])
        if not asked.may_retry and operation.attempts >= MOST_ATTEMPTS:
            raise Parked(f"it is not known whether the operation can still be undone: {asked.message}") from unknown
        journal.postpone(operation, asked)
        return
    if not error.may_retry and operation.fault and from_document(operation.fault).may_retry:
        operation = replace(operation, attempts=0)  # so far it waited for something else
    waits = error.may_retry and (past or operation.attempts < MOST_ATTEMPTS)
    if waits or (past and operation.attempts < _tries_past_no_return(error)):
        journal.postpone(operation, error)
    elif past:
        raise Parked(f"step {operation.plan[number].verb} cannot be finished, and it is too late to undo it: {error.message}")
    else:
        _begin_undo(journal, kind, worker, failure)


def _tries_past_no_return(error: StillframeError) -> int:
    """Returns how often a failure past the point of no return is retried. A call that libvirt or a program refuses will be
    refused again, so a person is told soon. A service with an internal error may recover, during an upgrade for instance: it
    gets as long as one that does not answer gets before the point of no return."""
    return MOST_ATTEMPTS if error.status >= _OWN_ERROR else ATTEMPTS_PAST_NO_RETURN


def _begin_undo(journal: Journal, kind: Kind, worker: Any, failure: tuple[Operation, int, StillframeError]) -> None:
    operation, number, error = failure
    # The step after the last recorded one may have begun before a crash: it is taken back too.
    begun = min(len(operation.plan), max(number, operation.step) + 1)
    changed = journal.change(operation, state="undoing", step=begun, attempts=0, fault=error.to_document())
    _go_back(journal, kind, worker, changed)


def _is_past_no_return(kind: Kind, worker: Any, operation: Operation) -> bool:
    """Tells whether a step that cannot be taken back was begun or done: by the record, and if that only says that it was begun,
    by asking ``done``. Raises when that has no answer."""
    for step in operation.plan[: operation.step + 1]:  # what comes later cannot have begun
        verb, name = kind.verbs[step.verb], step.key
        if verb.no_return != "never" and name in operation.evidence:
            return True
        begun = verb.no_return == "done" and operation.may_have_begun(name, verb)
        if begun and verb.done(worker, replace(operation, at=name), step.args) is not None:
            return True
    return False


def _go_back(journal: Journal, kind: Kind, worker: Any, operation: Operation) -> None:
    current = operation
    for number in range(operation.step - 1, -1, -1):
        step = operation.plan[number]
        undo, name = kind.verbs[step.verb].undo, step.key
        if undo is None:
            continue
        try:
            _pass(current, name, "undo-before")
            undo(worker, replace(current, at=name), step.args)
        except (LostLease, Parked):
            raise
        except NotYet as waiting:
            journal.wait(current, notes_key(name), waiting)
            return
        except Exception as error:
            failure = _failure(error, step)
            if not failure.may_retry and current.attempts >= MOST_ATTEMPTS:
                raise Parked(f"step {step.verb} cannot be undone: {failure.message}") from error
            LOG.warning("operation %s: step %s cannot be undone yet: %s", operation.id, step.verb, failure.message)
            journal.postpone(current, failure)
            return
        _pass(current, name, "undo-effect")
        current = journal.change(current, step=number)
        _pass(current, name, "undo-record")
    journal.finish(current, kind, "undone", _first_fault(journal, current))
    LOG.info("operation %s (%s) is undone", operation.id, operation.kind)


def _first_fault(journal: Journal, operation: Operation) -> StillframeError:
    """Returns the error that made the operation go back, as recorded."""
    with journal.database.read() as connection:
        row = operations.get(connection, operation.id)
    return from_document(row["fault"]) if row and row["fault"] else StepFailed("the operation was undone")


def _bytes(evidence: dict[str, Document]) -> int:
    return sum(int(found.get("bytes", 0)) for found in evidence.values())


def _failure(error: Exception, step: Step) -> StillframeError:
    """Returns the error that is shown to people. The message of a defect is only logged: it may contain anything."""
    if isinstance(error, StillframeError):
        return error
    LOG.error("step %s", step.verb, exc_info=error)
    if isinstance(error, OSError):
        return of_os_error(error)
    if isinstance(error, AWAY):
        return ServiceUnavailable(f"step {step.verb}: the service's database does not answer")
    return InternalError(f"step {step.verb} failed with an internal error of the service ({type(error).__name__})")

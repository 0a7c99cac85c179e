"""The form in which the journal stores a step."""

import json

import pytest

from stillframe.chain.steps import Commit, CreateOverlay, SetActive, Step, Trash, to_document


@pytest.mark.parametrize(
    ("step", "args"),
    [
        (CreateOverlay("a", "b", "qcow2", 7), {"name": "a", "backing": "b", "backing_format": "qcow2", "size": 7}),
        (Commit("a", "b", 9), {"top": "a", "base": "b", "bytes": 9}),
        (SetActive("a"), {"name": "a"}),
        (Trash("a"), {"name": "a"}),
    ],
)
def test_a_step_is_stored_as_its_verb_and_its_arguments(step: Step, args: dict[str, object]) -> None:
    document = to_document(step)
    assert document == {"verb": type(step).__name__, "args": args}
    assert json.loads(json.dumps(document)) == document

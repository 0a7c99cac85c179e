"""The form in which the journal stores a plan of a chain."""

import json

from stillframe.chain.steps import (
    Commit,
    CreateOverlay,
    Pull,
    Record,
    Rename,
    Repoint,
    Resize,
    Trash,
    cost,
    removed,
    written,
)
from stillframe.journal.typed import numbered

STEPS = (
    CreateOverlay("a", "b", "qcow2", 7),
    Commit("a", "b", "raw", 9),
    Trash("a"),
    Record("b", {"s": "b"}, {"s": None}),
    Trash("c"),
)


def test_a_step_is_stored_as_its_verb_and_its_arguments() -> None:
    documents = [each.document() for each in numbered(STEPS)]
    assert [each["verb"] for each in documents] == ["CreateOverlay", "Commit", "Trash", "Record", "Trash"]
    assert documents[1]["args"] == {"top": "a", "base": "b", "base_format": "raw", "bytes": 9}
    assert json.loads(json.dumps(documents)) == documents


def test_a_verb_that_comes_again_has_a_key_of_its_own() -> None:
    assert [each.key for each in numbered(STEPS)] == ["CreateOverlay", "Commit", "Trash", "Record", "Trash-2"]


def test_only_commits_and_pulls_copy() -> None:
    assert cost((*STEPS, Pull("a", None, None, 4))) == 13


def test_what_is_written_into_is_told_apart_from_what_is_read_or_made() -> None:
    made = CreateOverlay("new", "a", "qcow2", 1)
    steps = (made, Commit("a", "b", "qcow2", 1), Pull("c", "d", "qcow2", 1), Repoint("e", "f", "qcow2"), Resize("g", "raw", 1))
    assert written((*steps, Rename("h", "i"), Trash("j"))) == {"b", "c", "e", "g"}
    assert removed((*steps, Rename("h", "i"), Trash("j"), Trash("k"))) == {"j", "k"}

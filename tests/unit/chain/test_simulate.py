"""The model that proves plans must itself fail where a real share would."""

import pytest

from stillframe.chain.simulate import Layer, WorkerContext, apply, content, write
from stillframe.chain.steps import Commit, CreateOverlay, Record, Step, Trash

WORLD = WorkerContext({"base": Layer(None, {1: 10, 2: 20}), "top": Layer("base", {2: 21})}, "top")


def test_a_reader_sees_the_newest_layer_that_holds_a_cluster() -> None:
    assert content(WORLD, "base") == {1: 10, 2: 20}
    assert content(WORLD, "top") == {1: 10, 2: 21}


def test_a_write_goes_to_the_active_file_only() -> None:
    after = write(WORLD, 1, 11)
    assert after.files["base"] == WORLD.files["base"]
    assert content(after, "top") == {1: 11, 2: 21}
    assert content(WORLD, "top") == {1: 10, 2: 21}


def test_a_commit_copies_down_and_leaves_the_top_as_it_is() -> None:
    after = apply(WORLD, Commit("top", "base", "qcow2", 1))
    assert content(after, "base") == {1: 10, 2: 21}
    assert after.files["top"] == WORLD.files["top"]
    assert after.active == "top"


def test_a_new_overlay_reads_as_what_is_behind_it() -> None:
    after = apply(apply(WORLD, CreateOverlay("new", "top", "qcow2", 1)), Record("new", {}, {}))
    assert after.active == "new"
    assert content(after, "new") == content(WORLD, "top")


def test_trash_takes_the_file_away() -> None:
    assert set(apply(WorkerContext(WORLD.files, "base"), Trash("top")).files) == {"base"}


@pytest.mark.parametrize(
    "step",
    [
        CreateOverlay("top", "base", "qcow2", 1),
        CreateOverlay("new", "missing", "qcow2", 1),
        Commit("top", "other", "qcow2", 1),
        Commit("base", "top", "qcow2", 1),
        Commit("missing", "base", "qcow2", 1),
        Trash("top"),
        Trash("base"),
    ],
)
def test_what_a_share_would_refuse_is_refused(step: Step) -> None:
    with pytest.raises((ValueError, KeyError)):
        apply(WORLD, step)


def test_a_file_that_is_missing_cannot_become_the_active_one() -> None:
    with pytest.raises((ValueError, KeyError)):
        apply(WORLD, Record("missing", {}, {}))


def test_applying_a_step_leaves_the_world_before_untouched() -> None:
    before = {name: (layer.backing, dict(layer.clusters)) for name, layer in WORLD.files.items()}
    for step in (CreateOverlay("new", "top", "qcow2", 1), Commit("top", "base", "qcow2", 1), Record("base", {}, {})):
        apply(WORLD, step)
    assert {name: (layer.backing, dict(layer.clusters)) for name, layer in WORLD.files.items()} == before

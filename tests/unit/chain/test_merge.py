"""Runs of files nobody needs: where they begin and end, and what of them is kept."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.chain import merge
from stillframe.chain.image import Image, Parent
from stillframe.chain.merge import Run
from stillframe.chain.names import base_name, overlay_name
from stillframe.chain.steps import Commit, Pull, Rename, Repoint, cost
from stillframe.chain.tree import Tree, check, with_image
from tests.unit.builders import GIB, OTHER_VOLUME, VOLUME

IDS = [f"{number:08d}-0000-4000-8000-000000000000" for number in range(6)]
NAMES = [base_name(VOLUME), *(overlay_name(VOLUME, each) for each in IDS)]

NAMES_BELOW = tuple(NAMES[:4])


def planned(tree: Tree, run: Run, held: Sequence[int], running: bool = False) -> merge.Merge:
    """All merges of a plan as one."""
    found = merge.plan(tree, run, held, running)
    for each in found:
        check(each.after)
    steps = tuple(step for each in found for step in each.steps)
    return merge.Merge(steps, tuple(name for each in found for name in each.gone), found[-1].after, found[-1].rename)


def chain(depth: int, *needed: int, base_format: str = "qcow2") -> Tree:
    """``depth`` files on each other, the last active; those numbered in ``needed`` hold snapshots."""
    images = {NAMES[0]: Image(NAMES[0], base_format, GIB)}
    for number in range(1, depth):
        below = images[NAMES[number - 1]]
        images[NAMES[number]] = Image(NAMES[number], "qcow2", GIB, below.name, below.format)
    return Tree(VOLUME, images, NAMES[depth - 1], {IDS[number]: NAMES[number] for number in needed})


def test_a_run_goes_from_the_lowest_to_the_first_needed_file() -> None:
    tree = chain(5, 0, 3)
    for name in NAMES[1:3]:
        assert merge.run_at(tree, name) == Run((NAMES[1], NAMES[2]), NAMES[3])
    for name in (NAMES[0], NAMES[3], NAMES[4]):
        assert merge.run_at(tree, name) is None


def test_what_backs_two_files_is_in_no_run_and_may_be_on_top_of_one() -> None:
    branch = Image(NAMES[5], "qcow2", GIB, NAMES[2], "qcow2")
    tree = with_image(replace(chain(4), holds={"undo": NAMES[5]}), branch)
    assert merge.run_at(tree, NAMES[2]) is None
    assert merge.run_at(tree, NAMES[0]) == Run((NAMES[0], NAMES[1]), NAMES[2])


def test_what_another_volume_reads_is_in_no_run_nor_what_lies_below_it() -> None:
    tree = replace(chain(4), shared={NAMES[1]: (OTHER_VOLUME,)})
    assert [merge.run_at(tree, name) for name in NAMES[:2]] == [None, None]
    assert merge.run_at(tree, NAMES[2]) == Run((NAMES[2],), NAMES[3])


def test_an_end_of_a_branch_is_no_run() -> None:
    aside = Image(NAMES[5], "qcow2", GIB, NAMES[4], "qcow2")
    tree = with_image(with_image(chain(2, 0), Image(NAMES[4], "qcow2", GIB, NAMES[0], "qcow2")), aside)
    assert merge.run_at(tree, NAMES[4]) is None


@given(st.lists(st.integers(0, 9), min_size=2, max_size=6))
def test_the_file_that_holds_most_is_kept_and_nothing_else_is_copied(held: list[int]) -> None:
    """``held`` from the top down: what a reader of the top finds in each file."""
    depth = len(held)
    tree = chain(depth)
    run = merge.run_at(tree, NAMES[0])
    assert run is not None
    found = planned(tree, run, held)
    assert cost(found.steps) == sum(held) - max(held)
    assert len(found.gone) == depth - 1
    assert list(check(found.after).images) == [found.after.active]
    assert found.after.images[found.after.active].backing is None
    assert (found.rename is None) == (found.after.active == NAMES[0])


@given(st.lists(st.integers(0, 9), min_size=2, max_size=6))
def test_a_raw_file_is_always_the_one_that_is_kept(held: list[int]) -> None:
    tree = chain(len(held), base_format="raw")
    run = merge.run_at(tree, NAMES[0])
    assert run is not None
    found = planned(tree, run, held)
    assert [type(step) for step in found.steps] == [Commit]
    assert (found.after.active, found.after.images[NAMES[0]].format) == (NAMES[0], "raw")


@given(st.lists(st.integers(0, 9), min_size=2, max_size=5), st.booleans())
def test_under_a_running_guest_only_the_active_file_is_pulled_into_and_keeps_its_name(held: list[int], top: bool) -> None:
    tree = chain(6, *([] if top else [len(held) - 1]))
    run = merge.run_at(tree, NAMES[0])
    assert run is not None
    found = planned(tree, run, held, running=True)
    assert found.rename is None
    assert all(step.name == found.after.active for step in found.steps if isinstance(step, Pull))
    if not top:
        assert [type(step) for step in found.steps] == [Commit, Repoint]


def test_the_middle_one_takes_what_is_above_and_what_is_below() -> None:
    tree = replace(chain(5, 3, 4), active=NAMES[4], snapshots={IDS[3]: NAMES[3]})
    found = planned(tree, Run((NAMES[0], NAMES[1], NAMES[2]), NAMES[3]), [1, 2, 9, 4])
    assert found.steps == (
        Commit(NAMES[3], NAMES[1], "qcow2", 3),
        Repoint(NAMES[4], NAMES[1], "qcow2"),
        Pull(NAMES[1], None, None, 4),
    )
    assert found.gone == (NAMES[3], NAMES[2], NAMES[0])
    assert found.rename is None
    assert found.after.snapshots == {IDS[3]: NAMES[1]}


def test_every_file_on_top_of_a_merged_one_is_pointed_to_what_is_left() -> None:
    branch = Image(NAMES[5], "qcow2", GIB, NAMES[1], "qcow2")
    tree = with_image(replace(chain(3), holds={"undo": NAMES[5]}), branch)
    found = planned(tree, Run((NAMES[0],), NAMES[1]), [1, 5])
    assert found.steps[1:] == (Repoint(NAMES[2], NAMES[0], "qcow2"), Repoint(NAMES[5], NAMES[0], "qcow2"))


@pytest.mark.parametrize(("size", "wanted"), [(GIB, GIB), (3 * GIB, 3 * GIB)])
def test_what_is_left_is_as_large_as_the_largest(size: int, wanted: int) -> None:
    tree = chain(2)
    grown = with_image(tree, replace(tree.images[NAMES[1]], size=size))
    for held in ([1, 5], [5, 1]):
        found = planned(grown, Run((NAMES[0],), NAMES[1]), held)
        assert found.after.images[found.after.active].size == wanted


def test_a_file_that_gets_another_name_gets_it_everywhere() -> None:
    tree = merge.renamed(replace(chain(1), holds={}), Rename(NAMES[0], NAMES[1]))
    assert (list(tree.images), tree.active, tree.images[NAMES[1]].name) == ([NAMES[1]], NAMES[1], NAMES[1])


def test_what_is_shorter_goes_down_by_itself_below_a_running_guests_active_file() -> None:
    """Committed together with what is larger, QEMU 7.2 writes a zero for every byte the volume grew by."""
    tree = chain(6, 4)
    grown = {name: replace(tree.images[name], size=2 * GIB) for name in NAMES[2:6]}
    tree = replace(tree, images={**tree.images, **grown})
    run = merge.run_at(tree, NAMES[0])
    assert run == Run(NAMES_BELOW, NAMES[4])
    assert commits(planned(tree, run, [9, 8, 7, 6, 5], running=True)) == [(NAMES[1], 6), (NAMES[4], 9 + 8 + 7)]
    assert commits(planned(tree, run, [5, 6, 7, 8, 9])) == [(NAMES[4], 5 + 6 + 7 + 8)]
    repointed = [step for step in planned(tree, run, [9], running=True).steps if isinstance(step, Repoint)]
    assert [step.name for step in repointed] == [NAMES[2], NAMES[5]]


def commits(planned: merge.Merge) -> list[tuple[str, int]]:
    """Each with its top and its bytes; all go into the lowest file."""
    found = [step for step in planned.steps if isinstance(step, Commit)]
    assert {step.base for step in found} == {NAMES[0]}
    return [(step.top, step.bytes) for step in found]


def test_what_took_a_merge_holds_no_snapshot_before_the_next_begins() -> None:
    """A deletion may be given up between two merges: what is recorded then is what there is."""
    tree = replace(chain(5, 3, 4), active=NAMES[4], snapshots={IDS[3]: NAMES[3]})
    down, up = merge.plan(tree, Run((NAMES[0], NAMES[1], NAMES[2]), NAMES[3]), [1, 2, 9, 4])
    assert (down.gone, up.gone) == ((NAMES[3], NAMES[2]), (NAMES[0],))
    assert down.after.snapshots == {IDS[3]: NAMES[1]}
    assert [image.name for image in down.after.path(NAMES[4]).images] == [NAMES[0], NAMES[1], NAMES[4]]


@pytest.mark.parametrize("running", [False, True])
def test_nothing_is_pulled_out_of_a_base_with_parent_images(running: bool) -> None:
    tree = chain(3, 1)
    parents = (Parent("/golden", "/golden", "raw", GIB, 1),)
    tree = with_image(tree, replace(tree.images[NAMES[0]], parents=parents))
    found = planned(tree, Run((NAMES[0],), NAMES[1]), [GIB, 0], running)
    assert found.steps == (Commit(NAMES[1], NAMES[0], "qcow2", GIB), Repoint(NAMES[2], NAMES[0], "qcow2"))
    assert found.after.images[NAMES[0]].parents == parents

"""What each file of a volume is needed for, and what makes a tree of files valid: every rule broken alone."""

from dataclasses import replace
from typing import Any

import pytest

from stillframe.chain.image import Image
from stillframe.chain.names import base_name, overlay_name
from stillframe.chain.tree import Tree, check, moved, with_image, without_image
from stillframe.errors import BadImage, ChainConflict
from tests.unit.builders import GIB, OTHER_SNAPSHOT, OTHER_VOLUME, SERVER, SNAPSHOT, VOLUME

BASE = Image(base_name(VOLUME), "qcow2", GIB)
FIRST = Image(overlay_name(VOLUME, SNAPSHOT), "qcow2", GIB, BASE.name, "qcow2")
LEFT = Image(overlay_name(VOLUME, OTHER_SNAPSHOT), "qcow2", GIB, FIRST.name, "qcow2")
RIGHT = Image(overlay_name(VOLUME, SERVER), "qcow2", GIB, FIRST.name, "qcow2")
# base <- first <- left (a branch that was left), right (active)
FORK = Tree(
    VOLUME,
    {image.name: image for image in (BASE, FIRST, LEFT, RIGHT)},
    RIGHT.name,
    {SNAPSHOT: BASE.name, OTHER_SNAPSHOT: FIRST.name},
    {"the undo of a revert": LEFT.name, "backup x": BASE.name},
    {BASE.name: (OTHER_VOLUME,)},
)
SOURCE = Image(base_name(OTHER_VOLUME), "raw", GIB)
CLONE = Tree(VOLUME, {BASE.name: replace(BASE, backing=SOURCE.name, backing_format="raw")}, BASE.name, parent_image=SOURCE)


def test_a_valid_tree_is_returned_as_it_is() -> None:
    for tree in (FORK, CLONE, Tree(VOLUME, {BASE.name: BASE}, BASE.name)):
        assert check(tree) is tree


def test_who_is_backed_by_whom() -> None:
    assert FORK.children(FIRST.name) == sorted([LEFT.name, RIGHT.name])
    assert FORK.children(LEFT.name) == []
    assert (FORK.parent(RIGHT.name), FORK.parent(BASE.name), CLONE.parent(BASE.name)) == (FIRST.name, None, None)
    assert [image.name for image in FORK.path(LEFT.name).images] == [BASE.name, FIRST.name, LEFT.name]
    assert (FORK.depth, CLONE.depth) == (3, 1)


def test_every_reason_a_file_is_needed_for_is_named() -> None:
    assert FORK.reasons(BASE.name) == [f"snapshot {SNAPSHOT}", "backup x", f"linked volume {OTHER_VOLUME}"]
    assert FORK.reasons(RIGHT.name) == ["it receives the volume's writes"]
    assert FORK.reasons(LEFT.name) == ["the undo of a revert"]
    assert replace(FORK, holds={}).reasons(LEFT.name) == []


def test_what_lies_below_a_file_another_volume_reads_is_read_too() -> None:
    shared = replace(FORK, shared={LEFT.name: (OTHER_VOLUME,)})
    assert [shared.is_read_elsewhere(name) for name in (BASE.name, FIRST.name, LEFT.name, RIGHT.name)] == [
        True,
        True,
        True,
        False,
    ]


def test_the_overlay_of_a_snapshot_lies_on_the_way_to_the_active_file_if_it_can() -> None:
    assert FORK.overlay_of(OTHER_SNAPSHOT) == RIGHT.name
    assert replace(FORK, active=LEFT.name).overlay_of(OTHER_SNAPSHOT) == LEFT.name
    tip = replace(FORK, snapshots={SNAPSHOT: LEFT.name})
    assert tip.overlay_of(SNAPSHOT) is None


BROKEN: list[tuple[str, Any]] = [
    ("as its backing file", replace(FORK, images={name: image for name, image in FORK.images.items() if name != FIRST.name})),
    ("calls its backing file", with_image(FORK, replace(LEFT, backing_format="raw"))),
    ("shrink", with_image(FORK, replace(LEFT, size=1))),
    ("loop", with_image(FORK, replace(BASE, backing=LEFT.name, backing_format="qcow2"))),
    ("active file", replace(FORK, active=base_name(OTHER_VOLUME))),
    ("snapshot", replace(FORK, snapshots={SNAPSHOT: base_name(OTHER_VOLUME)})),
    ("kept for backup y", replace(FORK, holds={"backup y": base_name(OTHER_VOLUME)})),
    ("receives writes", replace(FORK, snapshots={SNAPSHOT: RIGHT.name})),
    ("as its backing file", replace(CLONE, parent_image=None)),
    ("as its backing file", replace(CLONE, parent_image=replace(SOURCE, name=base_name(SERVER)))),
    ("calls its backing file", replace(CLONE, parent_image=replace(SOURCE, format="qcow2"))),
    ("shrink", replace(CLONE, parent_image=replace(SOURCE, size=2 * GIB))),
]


@pytest.mark.parametrize(("told", "tree"), BROKEN)
def test_a_broken_tree_is_told(told: str, tree: Tree) -> None:
    with pytest.raises(ChainConflict, match=told):
        check(tree)


@pytest.mark.parametrize("name", [base_name(OTHER_VOLUME), "passwd", f"{BASE.name}\n"])
def test_a_file_that_is_not_the_volumes_is_refused(name: str) -> None:
    with pytest.raises(BadImage):
        check(with_image(FORK, replace(BASE, name=name)))


def test_a_name_that_changes_changes_everywhere() -> None:
    after = moved(FORK, BASE.name, "new")
    assert (after.snapshots[SNAPSHOT], after.holds["backup x"], after.active) == ("new", "new", RIGHT.name)
    assert moved(FORK, RIGHT.name, "new").active == "new"
    assert without_image(FORK, LEFT.name).children(FIRST.name) == [RIGHT.name]

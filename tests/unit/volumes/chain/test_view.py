"""The view of a chain: who needs each file, why hidden ones stay, and how it is drawn."""

from collections.abc import Sequence
from typing import Any

import pytest

from stillframe.chain import plan
from stillframe.chain.image import Image
from stillframe.chain.tree import Tree
from stillframe.client.osc.chain import amount, draw
from stillframe.volumes.chain.view import Seen, document
from tests.unit.builders import GIB, OTHER_VOLUME, SERVER, SET, SNAPSHOT, VOLUME

BASE = f"volume-{VOLUME}"
FIRST, SECOND, THIRD = (f"{BASE}.{each}" for each in (SNAPSHOT, SERVER, SET))
ROW: Any = {"id": VOLUME, "name": "data", "status": "available", "size": 1, "linked_to": None}


def image(name: str, backing: str | None = None) -> Image:
    return Image(name, "qcow2", GIB, backing, "qcow2" if backing else None)


def shown(images: Sequence[Image], active: str, **more: Any) -> dict[str, Any]:
    """The document of a tree; ``more`` are the tree's other fields, and row, rows, problems and foreign."""
    row: Any
    row, rows = {**ROW, **more.pop("row", {})}, more.pop("rows", [])
    problems, foreign = more.pop("problems", {}), more.pop("foreign", frozenset())
    tree = Tree(VOLUME, {each.name: each for each in images}, active, **more)
    sizes = dict.fromkeys((*tree.images, *problems), 4096)
    return document(Seen(row, rows, tree, sizes, problems, foreign))


def snapshot(snapshot_id: str = SNAPSHOT, overlay: str | None = FIRST, name: str | None = "first") -> dict[str, Any]:
    return {"id": snapshot_id, "name": name, "status": "available", "overlay": overlay}


def file(found: dict[str, Any], name: str) -> dict[str, Any]:
    (one,) = [each for each in found["files"] if each["name"] == name]
    return one  # type: ignore[no-any-return]


def test_what_backs_comes_first_and_every_number_is_there() -> None:
    found = shown([image(FIRST, BASE), image(BASE)], FIRST, snapshots={SNAPSHOT: BASE}, rows=[snapshot()])
    assert [each["name"] for each in found["files"]] == [BASE, FIRST]
    assert file(found, BASE) == {
        "name": BASE,
        "format": "qcow2",
        "virtual_size": GIB,
        "allocated": 4096,
        "backing": None,
        "backing_format": None,
        "active": False,
        "in_active_chain": True,
        "snapshots": [{"id": SNAPSHOT, "name": "first", "status": "available"}],
        "writes_after": [],
        "needed_by": {
            "files": [FIRST],
            "linked_volumes": [],
            "foreign_linked_volumes": 0,
            "backups": [],
            "undo_of_revert": False,
        },
        "hidden": False,
        "why": None,
        "problem": None,
    }
    assert file(found, FIRST)["writes_after"] == [SNAPSHOT]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"shared": {BASE: (OTHER_VOLUME,)}}, "a linked volume reads it"),
        ({"shared": {BASE: (OTHER_VOLUME, SERVER)}}, "2 linked volumes read it"),
        ({"shared": {BASE: (OTHER_VOLUME,)}, "foreign": frozenset((OTHER_VOLUME,))}, "a linked volume reads it"),
        ({"holds": {"backup 77": BASE}}, "backup 77 is what the next incremental one starts from"),
        ({"holds": {plan.UNDO: BASE}}, "the last revert can still be undone"),
        ({"holds": {plan.UNDO: BASE, "backup 77": BASE}}, "backup 77 is what the next incremental one starts from; the last"),
        ({}, "nobody needs it; it is merged"),
    ],
)
def test_a_hidden_file_says_why_it_stays(more: dict[str, Any], why: str) -> None:
    found = file(shown([image(BASE), image(FIRST, BASE)], FIRST, **more), BASE)
    assert found["hidden"] and found["why"].startswith(why)
    assert (found["needed_by"]["foreign_linked_volumes"] == 1) == ("foreign" in more)


def test_hidden_files_in_the_middle_of_something() -> None:
    branches = shown([image(BASE), image(FIRST, BASE), image(SECOND, BASE)], FIRST, holds={plan.UNDO: SECOND})
    assert file(branches, BASE)["why"] == "2 files stand on it"
    below = shown([image(BASE), image(FIRST, BASE), image(SECOND, FIRST)], SECOND, shared={FIRST: (OTHER_VOLUME,)})
    assert file(below, BASE)["why"] == "a file above it is read by a linked volume"
    orphan = shown([image(BASE), image(FIRST, BASE)], BASE)
    assert "doctor" in file(orphan, FIRST)["why"]


def test_a_tree_that_is_not_valid_is_shown_with_its_fault() -> None:
    assert "missing" in shown([image(BASE)], FIRST)["problem"]
    loop = shown([image(FIRST, SECOND), image(SECOND, FIRST)], FIRST)
    assert [each["name"] for each in loop["files"]] == [FIRST, SECOND]
    assert loop["problem"] and draw(loop).count(FIRST) == 2
    bad = shown([image(BASE)], BASE, problems={FIRST: "no image at all"})
    assert (file(bad, FIRST)["problem"], file(bad, FIRST)["format"]) == ("no image at all", None)
    assert "no image at all" in draw(bad) and f"! {FIRST}" in draw(bad)
    assert shown([], BASE, row={"status": "creating"})["problem"] is None


def test_a_linked_clone_names_what_it_reads() -> None:
    linked = {"volume_id": OTHER_VOLUME, "file": f"volume-{OTHER_VOLUME}", "format": "qcow2"}
    parent_image = image(f"volume-{OTHER_VOLUME}")
    found = shown([image(BASE, parent_image.name)], BASE, row={"linked_to": linked}, parent_image=parent_image)
    assert found["parent_image"] == {**linked, "virtual_size": GIB}
    assert draw(found).splitlines()[1:4] == [
        f"◌ volume-{OTHER_VOLUME}",
        f"│   of volume {OTHER_VOLUME}, which this one is linked to",
        f"◉ {BASE}  qcow2, 1 GiB, 4 KiB allocated",
    ]


def test_the_trunk_is_drawn_straight_and_branches_beside_it() -> None:
    images = [image(BASE), image(FIRST, BASE), image(SECOND, FIRST), image(THIRD, BASE)]
    rows = [snapshot(), snapshot(OTHER_VOLUME, None, None)]
    held = {SNAPSHOT: BASE, OTHER_VOLUME: FIRST}
    found = shown(images, THIRD, snapshots=held, rows=rows, holds={plan.UNDO: SECOND})
    assert draw(found).splitlines() == [
        f"data ({VOLUME}): 1 GiB, available; 4 files, 16 KiB allocated",
        f"● {BASE}  qcow2, 1 GiB, 4 KiB allocated",
        f"│   holds snapshot first ({SNAPSHOT})",
        f"├─● {FIRST}  qcow2, 1 GiB, 4 KiB allocated",
        f"│ │   holds snapshot ({OTHER_VOLUME})",
        "│ │   on a branch that was left",
        f"│ ○ {SECOND}  qcow2, 1 GiB, 4 KiB allocated",
        "│     hidden: the last revert can still be undone",
        f"◉ {THIRD}  qcow2, 1 GiB, 4 KiB allocated",
        "    receives the volume's writes",
    ]


def test_a_snapshot_of_block_storage_stands_beside_its_volume() -> None:
    alone, other = Image(BASE, "raw", GIB, None, None), Image(FIRST, "raw", GIB, None, None)
    found = shown([alone, other], BASE, snapshots={SNAPSHOT: FIRST}, rows=[snapshot()])
    assert sorted(draw(found).splitlines()[1:]) == sorted(
        [
            f"◉ {BASE}  raw, 1 GiB, 4 KiB allocated",
            "    receives the volume's writes",
            f"● {FIRST}  raw, 1 GiB, 4 KiB allocated",
            f"    holds snapshot first ({SNAPSHOT})",
            "    a copy of the volume's file, which shares blocks with it",
        ]
    )


def test_a_raw_base_under_a_branch_that_was_left_is_no_copy() -> None:
    images = [Image(BASE, "raw", GIB, None, None), Image(FIRST, "qcow2", GIB, BASE, "raw")]
    found = shown(images, FIRST, snapshots={SNAPSHOT: BASE}, rows=[snapshot()])
    assert "a copy" not in draw(found)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (GIB, "1 GiB"),
        (3 << 60, "3072 PiB"),
        (None, "?"),
    ],
)
def test_amounts_are_for_people(count: int | None, text: str) -> None:
    assert amount(count) == text

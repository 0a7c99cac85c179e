"""Plans for volumes whose files stand alone, proven on the model: every reader finds what was there (I5)."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.chain import native, plan, simulate
from stillframe.chain.image import Image
from stillframe.chain.names import base_name, overlay_name
from stillframe.chain.plan import Plan
from stillframe.chain.simulate import Layer, WorkerContext
from stillframe.chain.steps import Clone, Record, Trash, cost
from stillframe.chain.tree import Tree, check
from stillframe.errors import ChainConflict, Conflict
from tests.unit.builders import GIB, SNAPSHOT, VOLUME

IDS = [f"{number:08d}-0000-4000-8000-000000000000" for number in range(9)]
ACTIONS = st.lists(
    st.tuples(st.sampled_from(["write", "snapshot", "delete", "revert", "hold", "release", "clean_up"]), st.integers(0, 8)),
    max_size=30,
)


def lone() -> Tree:
    image = Image(base_name(VOLUME), "raw", GIB)
    return Tree(VOLUME, {image.name: image}, image.name)


@dataclass
class Model:
    worker: WorkerContext = field(default_factory=lambda: WorkerContext({base_name(VOLUME): Layer()}, base_name(VOLUME)))
    tree: Tree = field(default_factory=lone)
    made: int = 0

    def seen(self) -> dict[str, dict[int, int]]:
        named = {**self.tree.snapshots, **self.tree.holds, "volume": self.tree.active}
        return {key: simulate.content(self.worker, file) for key, file in named.items()}

    def carry_out(self, found: Plan) -> None:
        for step in found.steps:
            self.worker = simulate.apply(self.worker, step)
        self.tree = check(found.after)
        assert cost(found.steps) == 0
        assert set(self.worker.files) == set(self.tree.images) and self.worker.active == self.tree.active
        assert all(image.format == "raw" and image.backing is None for image in self.tree.images.values())

    def name(self) -> str:
        self.made += 1
        return overlay_name(VOLUME, f"{self.made:08d}-1111-4000-8000-000000000000")


def visible(_name: str) -> tuple[int, ...]:
    raise AssertionError("nothing is weighed, because nothing is merged")


@given(ACTIONS)
def test_after_any_history_every_reader_finds_what_was_there(actions: list[tuple[str, int]]) -> None:
    model = Model()
    for kind, number in actions:
        before, key = model.seen(), IDS[number]
        known = list(model.tree.snapshots)
        if kind == "write":
            model.worker = simulate.write(model.worker, number, len(before) + number)
            continue
        if kind == "snapshot" and key not in known:
            model.carry_out(native.snapshot(model.tree, key))
            before |= {key: before["volume"]}
        elif kind == "delete" and known:
            key = known[number % len(known)]
            model.carry_out(plan.delete(model.tree, [key], visible, running=bool(number % 2)))
            del before[key]
        elif kind == "revert" and known:
            key = known[number % len(known)]
            removed = known[known.index(key) + 1 :] if number % 2 else []
            model.carry_out(native.revert(model.tree, key, model.name(), removed))
            before = {name: held for name, held in before.items() if name not in removed} | {"volume": before[key]}
        elif kind == "hold":
            reason = f"backup {model.made}"
            model.carry_out(native.hold(model.tree, reason, model.name()))
            before |= {reason: before["volume"]}
        elif kind == "release" and model.tree.holds:
            reason = list(model.tree.holds)[number % len(model.tree.holds)]
            model.carry_out(plan.release(model.tree, reason, visible))
            del before[reason]
        elif kind == "clean_up":
            found = plan.clean_up(model.tree, visible, ends=True)
            model.carry_out(found or Plan((), model.tree))
        assert model.seen() == before


def test_a_snapshot_is_a_clone_and_the_volume_stays_where_it_is() -> None:
    found = native.snapshot(lone(), SNAPSHOT)
    name = overlay_name(VOLUME, SNAPSHOT)
    assert found.steps == (
        Clone(name, base_name(VOLUME), GIB),
        Record(base_name(VOLUME), {SNAPSHOT: name}, {SNAPSHOT: None}),
    )
    assert found.after.active == base_name(VOLUME)


def test_a_revert_keeps_the_size_that_the_volume_has_now() -> None:
    before = native.snapshot(lone(), SNAPSHOT).after
    grown = replace(before, images={**before.images, before.active: Image(before.active, "raw", 2 * GIB)})
    found = native.revert(grown, SNAPSHOT, overlay_name(VOLUME, IDS[1]), ())
    assert found.steps[0] == Clone(overlay_name(VOLUME, IDS[1]), overlay_name(VOLUME, SNAPSHOT), 2 * GIB)
    assert Trash(base_name(VOLUME)) in found.steps
    assert found.after.images[found.after.active].size == 2 * GIB


def test_what_is_there_already_or_not_any_more_is_refused() -> None:
    before = native.snapshot(lone(), SNAPSHOT).after
    with pytest.raises(Conflict, match="a snapshot"):
        native.snapshot(before, SNAPSHOT)
    with pytest.raises(Conflict, match="a file"):
        native.hold(before, "backup 1", overlay_name(VOLUME, SNAPSHOT))
    with pytest.raises(ChainConflict, match="any more"):
        native.revert(before, IDS[3], overlay_name(VOLUME, IDS[1]), ())

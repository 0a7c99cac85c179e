"""Plans, proven on a model: after any history the volume and every other snapshot read as before (I5)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.chain import plan, simulate
from stillframe.chain.image import Chain, Image, check
from stillframe.chain.names import base_name, overlay_name
from stillframe.chain.simulate import Layer, World
from stillframe.chain.steps import Commit, CreateOverlay, SetActive, Step, Trash
from stillframe.errors import Conflict, StillframeError
from tests.unit.builders import GIB, OTHER_SNAPSHOT, SNAPSHOT, VOLUME

MAX_DEPTH = 5
IDS = [f"{number:08d}-0000-4000-8000-000000000000" for number in range(7)]
Action = tuple[str, int, int]
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 4), st.integers(1, 99)),
        st.tuples(st.just("snapshot"), st.integers(0, len(IDS) - 1), st.just(0)),
        st.tuples(st.just("delete"), st.integers(0, len(IDS) - 1), st.just(0)),
        st.tuples(st.just("delete newest"), st.just(0), st.just(0)),
        st.tuples(st.just("extend"), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@dataclass
class Model:
    """A share with one volume: what a reader sees, and the chain its headers would show."""

    world: World = field(default_factory=lambda: World({base_name(VOLUME): Layer()}, base_name(VOLUME)))
    images: dict[str, Image] = field(
        default_factory=lambda: {base_name(VOLUME): Image(base_name(VOLUME), "qcow2", GIB)},
    )
    snapshots: dict[str, str] = field(default_factory=dict)

    @property
    def chain(self) -> Chain:
        found = [self.images[self.world.active]]
        while found[-1].backing is not None:
            found.append(self.images[found[-1].backing])
        return Chain(VOLUME, tuple(reversed(found)))

    def seen(self) -> dict[str, dict[int, int]]:
        """What the guest and a reader of each snapshot see."""
        behind = {snapshot: simulate.content(self.world, self.behind(snapshot)) for snapshot in self.snapshots}
        return {"volume": simulate.content(self.world, self.world.active), **behind}

    def behind(self, snapshot: str) -> str:
        backing = self.images[self.snapshots[snapshot]].backing
        assert backing is not None
        return backing

    def run(self, step: Step) -> None:
        self.world = simulate.apply(self.world, step)
        match step:
            case CreateOverlay():
                self.images[step.name] = Image(step.name, "qcow2", step.size, step.backing, step.backing_format)
            case Commit():
                grown = max(self.images[step.top].size, self.images[step.base].size)
                self.images[step.base] = replace(self.images[step.base], size=grown)
            case Trash():
                del self.images[step.name]


def planned(model: Model, make: Callable[[], tuple[Step, ...]]) -> tuple[Step, ...]:
    """Returns a plan, or nothing when it was refused; planning twice is planning once."""
    before = model.chain
    try:
        steps = make()
    except StillframeError:
        with pytest.raises(StillframeError):
            make()
        return ()
    assert steps and make() == steps
    assert model.chain == before
    return steps


def act(model: Model, action: Action) -> None:
    verb, number, value = action
    if verb == "write":
        model.world = simulate.write(model.world, number, value)
    elif verb == "extend":
        active = model.images[model.world.active]
        model.images[active.name] = replace(active, size=active.size + GIB)
    elif verb == "snapshot":
        take(model, IDS[number])
    elif verb == "delete":
        drop(model, IDS[number])
    elif model.snapshots:
        drop(model, list(model.snapshots)[-1])


def take(model: Model, snapshot: str) -> None:
    steps = planned(model, lambda: plan.snapshot(model.chain, snapshot, MAX_DEPTH))
    run(model, steps, model.seen())
    if steps:
        model.snapshots[snapshot] = overlay_name(VOLUME, snapshot)
        assert model.seen()[snapshot] == model.seen()["volume"]


def drop(model: Model, snapshot: str) -> None:
    overlay = overlay_name(VOLUME, snapshot)
    steps = planned(model, lambda: plan.delete_newest(model.chain, overlay, 4096))
    kept = {name: content for name, content in model.seen().items() if name != snapshot or not steps}
    if steps:
        model.snapshots.pop(snapshot)
    run(model, steps, kept)


def run(model: Model, steps: Sequence[Step], kept: dict[str, dict[int, int]]) -> None:
    """Runs a plan; whatever it keeps reads the same before, between and after its steps."""
    for step in steps:
        model.run(step)
        check(model.chain)
        seen = model.seen()
        assert {name: seen[name] for name in kept} == kept, step


@given(ACTIONS)
def test_every_plan_is_refused_or_keeps_the_chain_and_all_other_content(actions: list[Action]) -> None:
    model = Model()
    for action in actions:
        act(model, action)
        assert model.chain.depth <= MAX_DEPTH
    assert set(model.images) == {image.name for image in model.chain.images}


@given(ACTIONS)
def test_deleting_all_snapshots_leaves_one_file_with_the_volumes_content(actions: list[Action]) -> None:
    model = Model()
    for action in actions:
        if action[0] != "snapshot" or IDS[action[1]] not in model.snapshots:
            act(model, action)
    before = model.seen()["volume"]
    for snapshot in reversed(list(model.snapshots)):
        drop(model, snapshot)
    assert list(model.images) == [base_name(VOLUME)]
    assert model.seen() == {"volume": before}


BASE = Image(base_name(VOLUME), "qcow2", 2 * GIB)
OVERLAY = Image(overlay_name(VOLUME, SNAPSHOT), "qcow2", 3 * GIB, BASE.name, "qcow2")


def test_a_snapshot_is_an_empty_overlay_on_the_active_file_and_of_its_size() -> None:
    name = overlay_name(VOLUME, OTHER_SNAPSHOT)
    assert plan.snapshot(Chain(VOLUME, (BASE, OVERLAY)), OTHER_SNAPSHOT, 3) == (
        CreateOverlay(name, OVERLAY.name, "qcow2", 3 * GIB),
        SetActive(name),
    )


def test_a_snapshot_records_that_its_backing_file_is_raw() -> None:
    step = plan.snapshot(Chain(VOLUME, (replace(BASE, format="raw"),)), SNAPSHOT, 3)[0]
    assert isinstance(step, CreateOverlay)
    assert step.backing_format == "raw"


def test_a_chain_as_deep_as_allowed_takes_no_further_snapshot() -> None:
    with pytest.raises(Conflict, match="2 files in its chain, the most allowed is 2") as told:
        plan.snapshot(Chain(VOLUME, (BASE, OVERLAY)), OTHER_SNAPSHOT, 2)
    assert told.value.details == {"volume_id": VOLUME, "depth": 2}


def test_a_snapshot_whose_overlay_is_in_the_chain_already_is_refused() -> None:
    with pytest.raises(StillframeError):
        plan.snapshot(Chain(VOLUME, (BASE, OVERLAY)), SNAPSHOT, 9)


@pytest.mark.parametrize("hostile", ["../x", "info", "", f"{SNAPSHOT}\n", f"{SNAPSHOT}/x"])
def test_a_snapshot_whose_overlay_would_be_no_file_of_the_volume_is_refused(hostile: str) -> None:
    with pytest.raises(StillframeError):
        plan.snapshot(Chain(VOLUME, (BASE,)), hostile, 9)


def test_deleting_the_newest_commits_down_then_switches_then_removes() -> None:
    assert plan.delete_newest(Chain(VOLUME, (BASE, OVERLAY)), OVERLAY.name, 4096) == (
        Commit(OVERLAY.name, BASE.name, 4096),
        SetActive(BASE.name),
        Trash(OVERLAY.name),
    )


@pytest.mark.parametrize("named", [BASE.name, OVERLAY.name, overlay_name(VOLUME, OTHER_SNAPSHOT), ""])
def test_only_the_newest_snapshot_can_be_deleted(named: str) -> None:
    newest = Image(overlay_name(VOLUME, IDS[0]), "qcow2", 3 * GIB, OVERLAY.name, "qcow2")
    with pytest.raises(Conflict, match="only the newest snapshot"):
        plan.delete_newest(Chain(VOLUME, (BASE, OVERLAY, newest)), named, 0)


def test_the_base_is_never_deleted_as_a_snapshot() -> None:
    with pytest.raises(Conflict):
        plan.delete_newest(Chain(VOLUME, (BASE,)), BASE.name, 0)


@pytest.mark.parametrize("images", [(), (OVERLAY,), (BASE, replace(OVERLAY, backing_format="raw"))])
def test_no_plan_is_made_from_a_chain_that_is_not_valid(images: tuple[Any, ...]) -> None:
    with pytest.raises(StillframeError):
        plan.snapshot(Chain(VOLUME, images), OTHER_SNAPSHOT, 9)
    with pytest.raises(StillframeError):
        plan.delete_newest(Chain(VOLUME, images), OVERLAY.name, 0)

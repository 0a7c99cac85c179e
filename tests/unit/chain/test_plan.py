"""Plans, proven on a model: after any history the volume and every snapshot read as before (I5)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.chain import plan, simulate
from stillframe.chain.image import Image
from stillframe.chain.names import base_name, overlay_name
from stillframe.chain.plan import Plan
from stillframe.chain.simulate import Layer, WorkerContext
from stillframe.chain.steps import Commit, CreateOverlay, Pull, Record, Rename, Repoint, Resize, Step, Trash, cost
from stillframe.chain.tree import Tree, check
from stillframe.errors import ChainConflict, Conflict, StillframeError
from tests.unit.builders import GIB, OTHER_SNAPSHOT, OTHER_VOLUME, SNAPSHOT, VOLUME

MAX_DEPTH = 5
IDS = [f"{number:08d}-0000-4000-8000-000000000000" for number in range(7)]
Action = tuple[str, int, int]
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 6), st.integers(1, 99)),
        st.tuples(st.just("snapshot"), st.integers(0, 6), st.just(0)),
        st.tuples(st.just("delete"), st.integers(0, 6), st.just(0)),
        st.tuples(st.just("delete several"), st.integers(1, 127), st.just(0)),
        st.tuples(st.just("revert"), st.integers(0, 6), st.integers(0, 1)),
        st.tuples(st.just("undo"), st.just(0), st.just(0)),
        st.tuples(st.just("forget"), st.just(0), st.just(0)),
        st.tuples(st.just("hold"), st.just(0), st.just(0)),
        st.tuples(st.just("let go"), st.just(0), st.just(0)),
        st.tuples(st.just("link"), st.integers(0, 6), st.just(0)),
        st.tuples(st.just("unlink"), st.integers(0, 6), st.just(0)),
        st.tuples(st.just("extend"), st.just(0), st.just(0)),
        st.tuples(st.just("clean_up"), st.just(0), st.just(0)),
        st.tuples(st.just("restore"), st.integers(1, 99), st.just(0)),
    ),
    max_size=40,
)


@dataclass
class Model:
    """A share with one volume: its files' content, and what the rows say of them."""

    base_format: str = "qcow2"
    worker: WorkerContext = field(default_factory=lambda: WorkerContext({base_name(VOLUME): Layer()}, base_name(VOLUME)))
    tree: Tree = field(init=False)
    made: int = 0

    def __post_init__(self) -> None:
        image = Image(base_name(VOLUME), self.base_format, GIB)
        self.tree = Tree(VOLUME, {image.name: image}, image.name)

    def seen(self) -> dict[str, dict[int, int]]:
        """What every reader sees: the guest, each snapshot, what is held, each linked volume by the name it knows."""
        tree = self.tree
        named = {**tree.snapshots, **tree.holds, "volume": tree.active, **{f"linked {name}": name for name in tree.shared}}
        return {who: simulate.content(self.worker, file) for who, file in named.items()}

    def visible(self, name: str) -> Sequence[int]:
        return simulate.visible(self.worker, name)

    def new_name(self) -> str:
        self.made += 1
        return overlay_name(VOLUME, f"{self.made:08d}-1111-4111-8111-000000000000")

    def newest_is_empty(self) -> bool:
        return not self.worker.files[self.tree.active].clusters


def act(model: Model, action: Action) -> None:  # noqa: C901 -- one arm an action
    verb, number, value = action
    tree, key = model.tree, IDS[number % 7]
    if verb == "write":
        model.worker = simulate.write(model.worker, number, value)
    elif verb == "snapshot":
        carry_out(model, lambda: plan.snapshot(tree, key, MAX_DEPTH), {})
    elif verb == "delete" and key in tree.snapshots:
        carry_out(model, lambda: plan.delete(tree, [key], model.visible), {key})
    elif verb == "delete several":
        several = {key for bit, key in enumerate(IDS) if number & 1 << bit and key in tree.snapshots}
        carry_out(model, lambda: plan.delete(tree, sorted(several), model.visible), several)
    elif verb == "revert" and key in tree.snapshots:
        removed = {other for other in tree.snapshots if value and other > key}
        name, was = model.new_name(), model.seen()[key]
        if carry_out(model, lambda: plan.revert(tree, key, name, removed, model.visible), {"volume", plan.UNDO, *removed}):
            assert model.seen()["volume"] == was
    elif verb == "undo" and plan.UNDO in tree.holds and model.newest_is_empty():
        was = model.seen()[plan.UNDO]
        carry_out(model, lambda: plan.undo_revert(tree), {"volume", plan.UNDO})
        assert model.seen()["volume"] == was
    elif verb in ("forget", "let go"):
        reason = plan.UNDO if verb == "forget" else "backup"
        carry_out(model, lambda: plan.release(tree, reason, model.visible), {reason})
    elif verb == "hold" and "backup" not in tree.holds:
        name = model.new_name()
        carry_out(model, lambda: plan.hold(tree, "backup", name, MAX_DEPTH), {})
    elif verb == "link" and key in tree.snapshots:
        model.tree = replace(tree, shared={**tree.shared, tree.snapshots[key]: (OTHER_VOLUME,)})
    elif verb == "unlink" and key in tree.snapshots:
        model.tree = replace(tree, shared={k: v for k, v in tree.shared.items() if k != tree.snapshots[key]})
    elif verb == "extend":
        carry_out(model, lambda: plan.extend(tree, tree.images[tree.active].size + GIB), {})
    elif verb == "restore":
        restore(model, number)
    elif verb == "clean_up":
        clean_up(model)


def clean_up(model: Model) -> None:
    """Afterwards every file is needed, or it backs two that are, or another volume reads it."""
    tree = model.tree
    while (found := plan.clean_up(tree, model.visible, ends=True)) is not None:
        carry_out(model, lambda found=found: found, set())  # type: ignore[misc]
        assert model.tree != tree
        tree = model.tree
    for name in tree.images:
        assert tree.reasons(name) or len(tree.children(name)) > 1 or tree.is_read_elsewhere(name), name


def restore(model: Model, value: int) -> None:
    """A file with the whole new content takes the active file's place."""
    tree, name = model.tree, model.new_name()
    old = tree.images[tree.active]
    new = Image(name, "qcow2", old.size, old.backing, old.backing_format)
    model.worker = WorkerContext(
        {**model.worker.files, name: Layer(old.backing, dict.fromkeys(range(7), value))}, model.worker.active
    )
    carry_out(model, lambda: plan.replace_active(tree, new, model.visible), {"volume"})
    assert set(model.seen()["volume"].values()) == {value}


def carry_out(model: Model, make: Callable[[], Plan], changed: object) -> bool:
    """Runs a plan; whatever it does not mean to change reads the same before, between and after its steps."""
    before, seen = model.tree, model.seen()
    try:
        found = make()
    except StillframeError:
        with pytest.raises(StillframeError):
            make()
        return False
    assert found.steps and make() == found and model.tree == before
    kept = {who: what for who, what in seen.items() if who not in changed}  # type: ignore[operator]
    files = {**before.snapshots, **before.holds, **{f"linked {name}": name for name in before.shared}}
    for step in found.steps:
        model.worker = simulate.apply(model.worker, step)
        follow(files, step)
        for who in kept:
            if who != "volume":
                assert simulate.content(model.worker, files[who]) == kept[who], (who, step)
    model.tree = check(found.after)
    assert model.tree.images[model.tree.active].size >= before.images[before.active].size
    assert {who: model.seen()[who] for who in kept} == kept
    assert model.worker.active == model.tree.active
    assert set(model.worker.files) == set(model.tree.images)
    assert {name: layer.backing for name, layer in model.worker.files.items()} == {
        name: image.backing for name, image in model.tree.images.items()
    }
    return True


def follow(files: dict[str, str], step: Step) -> None:
    """Where a reader looks after a step: what Record and Rename say."""
    if isinstance(step, Record):
        files.update(step.snapshots)
    if isinstance(step, Rename):
        files.update({who: step.to for who, name in files.items() if name == step.name})
    if isinstance(step, Commit):  # a hold's file follows the content it had
        files.update({who: step.base for who, name in files.items() if name == step.top and len(who) != 36})


@given(ACTIONS, st.sampled_from(["qcow2", "raw"]))
def test_every_plan_is_refused_or_keeps_all_other_content(actions: list[Action], base_format: str) -> None:
    model = Model(base_format)
    for action in actions:
        act(model, action)


def test_an_end_that_lies_above_the_active_file_may_be_about_to_become_it() -> None:
    tree = replace(TWO, active=FIRST.name, snapshots={SNAPSHOT: BASE.name})
    assert plan.clean_up(tree, lambda _name: (), ends=True) is None
    aside = replace(SECOND, backing=BASE.name)
    left = replace(tree, images={**tree.images, SECOND.name: aside})
    assert plan.clean_up(left, lambda _name: ()) is None
    found = plan.clean_up(left, lambda _name: (), ends=True)
    assert found is not None
    assert found.steps[-1] == Trash(SECOND.name)
    assert list(found.after.images) == [BASE.name, FIRST.name]


@given(ACTIONS)
def test_without_snapshots_links_and_holds_there_is_one_file_with_the_volumes_name(actions: list[Action]) -> None:
    model = Model()
    for action in actions:
        act(model, action)
    before = model.seen()["volume"]
    model.tree = replace(model.tree, shared={})
    for reason in list(model.tree.holds):
        tree, why = model.tree, reason
        carry_out(model, lambda tree=tree, why=why: plan.release(tree, why, model.visible), {reason})  # type: ignore[misc]
    tree = model.tree
    carry_out(model, lambda: plan.delete(tree, sorted(tree.snapshots), model.visible), set(tree.snapshots))
    hidden = [name for name in model.tree.images if not model.tree.reasons(name)]
    if hidden:  # what a linked volume held fast until now
        tree = replace(model.tree, holds={"x": hidden[0]})
        model.tree = tree
        carry_out(model, lambda: plan.release(tree, "x", model.visible), {"x"})
    if not [name for name in model.tree.images if not model.tree.reasons(name)]:
        assert list(model.tree.images) == [base_name(VOLUME)]
    assert model.seen() == {"volume": before}


BASE = Image(base_name(VOLUME), "qcow2", 2 * GIB)
FIRST = Image(overlay_name(VOLUME, SNAPSHOT), "qcow2", 3 * GIB, BASE.name, "qcow2")
SECOND = Image(overlay_name(VOLUME, OTHER_SNAPSHOT), "qcow2", 3 * GIB, FIRST.name, "qcow2")
ONE = Tree(VOLUME, {BASE.name: BASE, FIRST.name: FIRST}, FIRST.name, {SNAPSHOT: BASE.name})
TWO = replace(
    ONE,
    images={**ONE.images, SECOND.name: SECOND},
    active=SECOND.name,
    snapshots={SNAPSHOT: BASE.name, OTHER_SNAPSHOT: FIRST.name},
)


def test_a_snapshot_is_an_empty_overlay_on_the_active_file_and_of_its_size() -> None:
    found = plan.snapshot(ONE, OTHER_SNAPSHOT, 3)
    assert found.steps == (
        CreateOverlay(SECOND.name, FIRST.name, "qcow2", 3 * GIB),
        Record(
            SECOND.name,
            {SNAPSHOT: BASE.name, OTHER_SNAPSHOT: FIRST.name},
            {SNAPSHOT: FIRST.name, OTHER_SNAPSHOT: SECOND.name},
        ),
    )
    assert found.after == TWO


def test_a_snapshot_records_that_its_backing_file_is_raw() -> None:
    raw = Tree(VOLUME, {BASE.name: replace(BASE, format="raw")}, BASE.name)
    step = plan.snapshot(raw, SNAPSHOT, 3).steps[0]
    assert isinstance(step, CreateOverlay)
    assert step.backing_format == "raw"


def test_a_chain_as_deep_as_allowed_takes_no_further_snapshot() -> None:
    with pytest.raises(Conflict, match="2 files in its chain, the most allowed is 2") as told:
        plan.snapshot(ONE, OTHER_SNAPSHOT, 2)
    assert told.value.details == {"volume_id": VOLUME, "depth": 2}


def test_a_snapshot_that_exists_already_is_refused() -> None:
    with pytest.raises(Conflict, match="has a snapshot"):
        plan.snapshot(ONE, SNAPSHOT, 9)


@pytest.mark.parametrize("hostile", ["../x", "info", "", f"{SNAPSHOT}\n", f"{SNAPSHOT}/x"])
def test_a_snapshot_whose_overlay_would_be_no_file_of_the_volume_is_refused(hostile: str) -> None:
    with pytest.raises(StillframeError):
        plan.snapshot(Tree(VOLUME, {BASE.name: BASE}, BASE.name), hostile, 9)


def test_the_newest_goes_down_into_its_base_when_that_holds_more() -> None:
    assert plan.delete(ONE, [SNAPSHOT], lambda _name: (10, 20)).steps == (
        Commit(FIRST.name, BASE.name, "qcow2", 10),
        Record(BASE.name, {}, {}),
        Trash(FIRST.name),
    )


def test_the_base_goes_up_into_the_newest_when_it_holds_less_and_gives_it_its_name() -> None:
    assert plan.delete(ONE, [SNAPSHOT], lambda _name: (20, 10)).steps == (
        Pull(FIRST.name, None, None, 10),
        Record(FIRST.name, {}, {}),
        Trash(BASE.name),
        Rename(FIRST.name, BASE.name),
        Record(BASE.name, {}, {}),
    )


def test_a_raw_base_is_never_pulled_up() -> None:
    raw = replace(ONE, images={BASE.name: replace(BASE, format="raw"), FIRST.name: replace(FIRST, backing_format="raw")})
    assert plan.delete(raw, [SNAPSHOT], lambda _name: (20, 10)).steps[0] == Commit(FIRST.name, BASE.name, "raw", 20)


def test_what_lies_on_a_committed_file_is_repointed() -> None:
    assert plan.delete(TWO, [SNAPSHOT], lambda _name: (1, 2)).steps == (
        Commit(FIRST.name, BASE.name, "qcow2", 1),
        Repoint(SECOND.name, BASE.name, "qcow2"),
        Record(SECOND.name, {OTHER_SNAPSHOT: BASE.name}, {OTHER_SNAPSHOT: SECOND.name}),
        Trash(FIRST.name),
    )


@pytest.mark.parametrize("visible", [(5, 1, 3), (1, 5, 3), (1, 3, 5), (2, 2, 2)])
def test_several_at_once_copy_everything_but_the_largest(visible: tuple[int, ...]) -> None:
    found = plan.delete(TWO, [SNAPSHOT, OTHER_SNAPSHOT], lambda _name: visible)
    assert cost(found.steps) == sum(visible) - max(visible)
    assert list(found.after.images) == [BASE.name]


def test_a_snapshot_that_went_meanwhile_is_a_conflict_and_no_defect() -> None:
    with pytest.raises(ChainConflict, match="any more"):
        plan.delete(TWO, [OTHER_VOLUME], lambda _name: ())
    with pytest.raises(ChainConflict, match="any more"):
        plan.revert(TWO, OTHER_VOLUME, overlay_name(VOLUME, OTHER_VOLUME), [], lambda _name: ())


def test_a_snapshot_that_a_linked_volume_reads_is_refused_naming_it() -> None:
    shared = replace(TWO, shared={FIRST.name: (OTHER_VOLUME,)})
    with pytest.raises(Conflict, match=OTHER_VOLUME) as told:
        plan.delete(shared, [OTHER_SNAPSHOT], lambda _name: ())
    assert told.value.details["dependants"] == [OTHER_VOLUME]


def test_nothing_below_what_another_volume_reads_is_merged() -> None:
    shared = replace(TWO, shared={FIRST.name: (OTHER_VOLUME,)})
    assert plan.delete(shared, [SNAPSHOT], lambda _name: ()).steps == (
        Record(SECOND.name, {OTHER_SNAPSHOT: FIRST.name}, {OTHER_SNAPSHOT: SECOND.name}),
    )


def test_an_extension_grows_only_the_active_file_and_never_shrinks() -> None:
    assert plan.extend(ONE, 4 * GIB).steps == (Resize(FIRST.name, "qcow2", 4 * GIB),)
    with pytest.raises(Conflict, match="cannot shrink"):
        plan.extend(ONE, GIB)


@pytest.mark.parametrize(
    "broken",
    [
        replace(ONE, active="volume-x"),
        replace(ONE, images={FIRST.name: FIRST}),
        replace(ONE, images={BASE.name: BASE, FIRST.name: replace(FIRST, backing_format="raw")}),
        replace(ONE, images={BASE.name: replace(BASE, size=9 * GIB), FIRST.name: FIRST}),
        replace(ONE, images={BASE.name: replace(BASE, backing=FIRST.name, backing_format="qcow2"), FIRST.name: FIRST}),
        replace(ONE, snapshots={SNAPSHOT: FIRST.name}),
        replace(ONE, snapshots={SNAPSHOT: SECOND.name}),
        replace(ONE, holds={"backup": SECOND.name}),
    ],
)
def test_no_plan_is_made_from_files_that_do_not_fit(broken: Tree) -> None:
    makes: tuple[Callable[[], Plan], ...] = (
        lambda: plan.snapshot(broken, OTHER_SNAPSHOT, 9),
        lambda: plan.delete(broken, [SNAPSHOT], lambda _name: ()),
        lambda: plan.release(broken, "backup", lambda _name: ()),
        lambda: plan.extend(broken, 9 * GIB),
    )
    for make in makes:
        with pytest.raises(ChainConflict):
            make()

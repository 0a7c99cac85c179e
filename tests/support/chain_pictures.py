"""Pictures of a volume's files before and after each kind of deletion, drawn from the real plans on a model of their content.

``python -m tests.support.chain_pictures`` writes them into the page; a test compares the page with what is drawn now.
"""

import re
import string
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stillframe.chain import plan, simulate
from stillframe.chain.image import Image
from stillframe.chain.names import base_name, overlay_name
from stillframe.chain.plan import Plan
from stillframe.chain.simulate import Layer, WorkerContext
from stillframe.chain.steps import Commit, CreateOverlay, Pull, Record, Rename, Repoint, Resize, Step, Trash
from stillframe.chain.tree import Tree
from stillframe.errors import Conflict
from stillframe.volumes.chain import explain as chain_explain

PAGE = Path(__file__).parents[2] / "docs/reference/chains.md"
CLUSTER = 64 << 10
CLUSTERS = 8
VOLUME = "00000000-0000-4000-8000-000000000000"
SNAPSHOTS = {name: f"{number:08d}-0000-4000-8000-000000000000" for number, name in enumerate(("monday", "tuesday"), 1)}
NEW = "00000009-0000-4000-8000-000000000000"
CLONE = "0000000c-0000-4000-8000-000000000000"
SHORT = {VOLUME: "volume", NEW: "new", CLONE: "clone", **{key: name for name, key in SNAPSHOTS.items()}}
BLOCK = re.compile(r"<!-- picture: ([a-z-]+) -->\n```text\n.*?```\n", re.DOTALL)


@dataclass(frozen=True)
class Volume:
    """The files of one volume: what their headers and rows say, and their content."""

    tree: Tree
    worker: WorkerContext
    letters: str = string.ascii_uppercase + string.ascii_lowercase

    def write(self, *clusters: int) -> "Volume":
        """The guest writes new content, the next letter, into each of the clusters."""
        worker = self.worker
        for cluster, letter in zip(clusters, self.letters, strict=False):
            worker = simulate.write(worker, cluster, ord(letter))
        return replace(self, worker=worker, letters=self.letters[len(clusters) :])

    def snapshot(self, name: str) -> "Volume":
        return self.follow(plan.snapshot(self.tree, SNAPSHOTS[name], 64))

    def revert(self, name: str) -> "Volume":
        """Back to a snapshot; the newer ones stay as a branch, and the undo is over."""
        overlay = overlay_name(VOLUME, NEW)
        reverted = self.follow(plan.revert(self.tree, SNAPSHOTS[name], overlay, (), self.visible))
        return reverted.follow(plan.release(reverted.tree, plan.UNDO, reverted.visible))

    def linked(self, name: str) -> "Volume":
        return replace(self, tree=replace(self.tree, shared={self.tree.snapshots[SNAPSHOTS[name]]: (CLONE,)}))

    def visible(self, name: str) -> Sequence[int]:
        return [count * CLUSTER for count in simulate.visible(self.worker, name)]

    def follow(self, made: Plan) -> "Volume":
        worker = self.worker
        for step in made.steps:
            worker = simulate.apply(worker, step)
        return replace(self, tree=made.after, worker=worker)

    def readers(self) -> dict[str, dict[int, int]]:
        """What the guest and each snapshot see."""
        named = {**self.tree.snapshots, "the guest": self.tree.active}
        return {who: simulate.content(self.worker, file) for who, file in named.items()}


def fresh() -> Volume:
    """A volume whose every cluster is written, without snapshots."""
    image = Image(base_name(VOLUME), "qcow2", CLUSTERS * CLUSTER)
    return Volume(Tree(VOLUME, {image.name: image}, image.name), WorkerContext({image.name: Layer()}, image.name)).write(
        *range(CLUSTERS)
    )


def _three(first: Sequence[int], second: Sequence[int]) -> Volume:
    return fresh().snapshot("monday").write(*first).snapshot("tuesday").write(*second)


# By name: the volume, the snapshots that are deleted, and whether a guest has the volume open.
PICTURES: dict[str, tuple[Callable[[], Volume], tuple[str, ...], bool]] = {
    "active-commit": (lambda: fresh().snapshot("monday").write(1, 4), ("monday",), True),
    "block-commit": (lambda: _three((1, 2, 4), (2, 6)), ("monday",), True),
    "block-pull": (lambda: _three((1, 3), (1, 2, 5, 6)), ("tuesday",), True),
    "offline-commit": (lambda: fresh().snapshot("monday").write(3), ("monday",), False),
    "offline-pull": (lambda: fresh().snapshot("monday").write(0, 1, 2, 3, 4, 6, 7), ("monday",), False),
    "together": (lambda: _three((1, 2, 4), (2, 6)), ("monday", "tuesday"), True),
    "remove": (
        lambda: fresh().snapshot("monday").write(1, 2).snapshot("tuesday").revert("monday").write(5),
        ("tuesday",),
        True,
    ),
    "record-only": (lambda: fresh().snapshot("monday").write(1, 2).snapshot("tuesday").revert("monday"), ("monday",), True),
    "refused": (lambda: fresh().snapshot("monday").write(1).linked("monday"), ("monday",), True),
}


def drawn(name: str) -> str:
    """One picture, as text. Raises ValueError when a reader would see something else afterwards."""
    make, deleted, running = PICTURES[name]
    before = make()
    ids = [SNAPSHOTS[each] for each in deleted]
    lines = ["before", *_files(before)]
    try:
        made = plan.delete(before.tree, ids, before.visible, running)
    except Conflict as error:
        return "\n".join([*lines, "", f"refused: {_short(error.message)}"])
    after = before.follow(made)
    wanted = {who: content for who, content in before.readers().items() if who not in ids}
    if after.readers() != wanted:
        raise ValueError(f"{name}: what a reader sees has changed")
    told = chain_explain.document(before.tree, made, ids, running)
    lines += ["", *textwrap.wrap(f"{told['method']}: {_short(told['why'])}", 110, subsequent_indent="  ")]
    lines += [f"  {number}. {words}" for number, words in enumerate(filter(None, map(_step, made.steps)), 1)]
    return "\n".join([*lines, "", "after", *_files(after)])


def _step(step: Step) -> str | None:
    match step:
        case Commit(top=top, base=base):
            words = f"commit {top} into {base}"
        case Pull(name=name, backing=backing):
            words = f"pull what lies behind {name} into it, " + (f"down to {backing}" if backing else "all of it")
        case Repoint(name=name, backing=backing):
            words = f"let {name} be backed by {backing}"
        case Rename(name=name, to=to):
            words = f"rename {name} to {to}"
        case Trash(name=name):
            words = f"remove {name}"
        case Record(active=active):
            words = f"record {active} as the active file"
        case CreateOverlay() | Resize():
            return None
    return _short(words)


def _short(text: str) -> str:
    text = text.replace(base_name(VOLUME), "volume")
    for key, name in SHORT.items():
        text = text.replace(key, name)
    return text


def _files(volume: Volume) -> list[str]:
    """One line a file, the lowest first; what a file does not hold itself is a dot."""
    rows = [
        (f"{'   ' * depth}{_short(name)}", _clusters(volume, name), _roles(volume.tree, name))
        for depth, name in _walk(volume.tree)
    ]
    width = max(len(row[0]) for row in rows)
    return [f"  {name:<{width}}  |{clusters}|  {roles}".rstrip() for name, clusters, roles in rows]


def _walk(tree: Tree, name: str | None = None, depth: int = 0) -> Iterator[tuple[int, str]]:
    lowest = [image.name for image in tree.images.values() if image.backing not in tree.images]
    for each in lowest if name is None else tree.children(name):
        yield depth, each
        yield from _walk(tree, each, depth + 1)


def _clusters(volume: Volume, name: str) -> str:
    held = volume.worker.files[name].clusters
    return " ".join(chr(held[number]) if number in held else "." for number in range(CLUSTERS))


def _roles(tree: Tree, name: str) -> str:
    found = ["active file"] if name == tree.active else []
    found += [f"snapshot {SHORT[key]}" for key, file in tree.snapshots.items() if file == name]
    found += [f"read by volume {SHORT[key]}" for key in tree.shared.get(name, ())]
    return ", ".join(found) or "(no snapshot)"


def page(text: str) -> str:
    """Returns the page with every picture as it is drawn now."""
    return BLOCK.sub(lambda found: f"<!-- picture: {found[1]} -->\n```text\n{drawn(found[1])}\n```\n", text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
    sys.stdout.write(f"{PAGE.name}: {len(PICTURES)} pictures\n")

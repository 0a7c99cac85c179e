"""Files that nobody needs, each with one file on top of it, become one file with the least copying.

A run is such files from the lowest to the highest, and the needed file on top of them. One of them is kept: what lies
above it is committed down into it, what lies below is pulled up into it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stillframe.chain.image import Image
from stillframe.chain.steps import Commit, Pull, Rename, Repoint, Step
from stillframe.chain.tree import Tree, moved


@dataclass(frozen=True)
class Run:
    """``files`` from the lowest to the highest; ``top`` is the needed file above them."""

    files: tuple[str, ...]
    top: str


@dataclass(frozen=True)
class Merge:
    steps: tuple[Step, ...]
    gone: tuple[str, ...]  # files to be removed afterwards
    after: Tree
    rename: Rename | None  # after that: the active file gets the name of the lowest, by which its snapshots are known


def run_at(tree: Tree, name: str) -> Run | None:
    """Returns the run that ``name`` is part of; None when it is needed, backs several files, is read by another volume, or
    has nothing needed on top of it."""
    if not _mergeable(tree, name):
        return None
    lowest = name
    while (below := tree.parent(lowest)) is not None and _mergeable(tree, below):
        lowest = below
    files = [lowest]
    while _mergeable(tree, above := tree.children(files[-1])[0]):
        files.append(above)
    needed = bool(tree.reasons(above)) or len(tree.children(above)) > 1
    return Run(tuple(files), above) if needed else None


def _mergeable(tree: Tree, name: str) -> bool:
    return not tree.reasons(name) and len(tree.children(name)) == 1 and not tree.is_read_elsewhere(name)


def plan(tree: Tree, run: Run, visible: Sequence[int], running: bool = False) -> list[Merge]:
    """One merge after the other, each to be recorded before the next begins: a deletion may be cancelled between two, and then
    the file that was merged into has no snapshot any more. ``visible`` are the bytes a reader of the top finds in it, in the
    file below it, and so on.

    With ``running`` a guest has the active chain open. libvirt (9.0) pulls into the active file only, so a run below
    another file goes down; and the active file keeps the name it has until nobody has it open. So does what goes into the base
    of an adopted volume: somebody else chose that name, and may want it back while the guest runs on.
    """
    files = (*run.files, run.top)
    weights = [visible[depth] if depth < len(visible) else 0 for depth in range(len(files))][::-1]
    open_ = {image.name for image in tree.path(tree.active).images} if running else set()
    between = run.top in open_ and run.top != tree.active
    adopted = run.top in open_ and tree.base_file == files[0]
    keep = 0 if between or adopted else _keeper(tree, files, weights)
    found = _commits(tree, files[keep:], weights[keep:], by_size=between) if keep < len(files) - 1 else []
    if keep > 0:
        tree = found[-1].after if found else tree
        kept, lowest = tree.images[files[keep]], tree.images[files[0]]
        step = Pull(kept.name, lowest.backing, lowest.backing_format, sum(weights[:keep]))
        after = _merged(tree, files[: keep + 1], kept, lowest)
        alone = kept.name == after.active and not after.children(kept.name) and kept.name not in open_
        rename = Rename(kept.name, lowest.name) if alone else None
        found.append(Merge((step,), tuple(reversed(files[:keep])), after, rename))
    return found


def _commits(tree: Tree, files: Sequence[str], weights: Sequence[int], by_size: bool) -> list[Merge]:
    """Everything goes down into the first of ``files``. With ``by_size`` a file that is shorter than the one on top of it goes
    first: QEMU (7.2) commits files below the active one together by writing zeros behind the end of the shorter one, as many as
    the volume grew by."""
    found, done = list[Merge](), 1
    for place in range(1, len(files)):
        top = place == len(files) - 1
        if top or (by_size and tree.images[files[place]].size < tree.images[files[place + 1]].size):
            kept = tree.images[files[0]]
            steps: list[Step] = [Commit(files[place], kept.name, kept.format, sum(weights[done : place + 1]))]
            steps += [Repoint(child, kept.name, kept.format) for child in tree.children(files[place])]
            tree = _merged(tree, (kept.name, *files[done : place + 1]), kept, kept)
            found.append(Merge(tuple(steps), tuple(reversed(files[done : place + 1])), tree, None))
            done = place + 1
    return found


def renamed(tree: Tree, step: Rename) -> Tree:
    """The tree after a file that backs nothing got another name."""
    image = replace(tree.images[step.name], name=step.to)
    rest = {name: other for name, other in tree.images.items() if name != step.name}
    return moved(replace(tree, images={**rest, step.to: image}), step.name, step.to)


def _keeper(tree: Tree, files: Sequence[str], weights: Sequence[int]) -> int:
    """The file with the most in it stays; of equals the lowest. A raw file stays raw: nothing is pulled out of it. Out of one
    with parent images all of their content would come too, and no reader would share them any more."""
    if tree.images[files[0]].format == "raw" or tree.images[files[0]].parents:
        return 0
    return max(range(len(files)), key=lambda place: (weights[place], -place))


def _merged(tree: Tree, files: Sequence[str], kept: Image, lowest: Image) -> Tree:
    top = files[-1]
    size = max(tree.images[top].size, kept.size)
    one = replace(kept, size=size, backing=lowest.backing, backing_format=lowest.backing_format)
    images = {name: image for name, image in tree.images.items() if name not in files}
    for child in tree.children(top):
        images[child] = replace(images[child], backing=kept.name, backing_format=kept.format)
    return moved(replace(tree, images={**images, kept.name: one}), top, kept.name)

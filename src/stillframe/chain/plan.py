"""Makes plans: from an observed tree of files and a request to a tuple of steps, or to a conflict that explains itself."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from stillframe.chain import merge, names
from stillframe.chain.image import Image
from stillframe.chain.steps import CreateOverlay, Record, Rename, Resize, Step, Trash
from stillframe.chain.tree import Tree, check, with_image, without_image
from stillframe.errors import ChainConflict, Conflict

UNDO = "the undo of a revert"
Visible = Callable[[str], Sequence[int]]  # of a file: bytes its reader finds in it, in what backs it, and so on down


@dataclass(frozen=True)
class Plan:
    """What is to be done, and the tree as it is afterwards. Rows follow ``after`` in the transaction that ends it."""

    steps: tuple[Step, ...]
    after: Tree


def snapshot(tree: Tree, snapshot_id: str, max_depth: int) -> Plan:
    """A new overlay on the active file, which holds the snapshot's data from here on. Raises Conflict for a chain that is as
    deep as it may become."""
    if snapshot_id in tree.snapshots:
        raise Conflict(f"volume {tree.volume_id} has a snapshot {snapshot_id} already", volume_id=tree.volume_id)
    steps, after = _overlay(tree, names.overlay_name(tree.volume_id, snapshot_id), tree.active, max_depth)
    after = replace(after, snapshots={**tree.snapshots, snapshot_id: tree.active})
    return Plan((*steps, record(after)), after)


def hold(tree: Tree, reason: str, overlay: str, max_depth: int) -> Plan:
    """As ``snapshot``, but the data is held for something that is no snapshot, such as a backup's successor."""
    steps, after = _overlay(tree, overlay, tree.active, max_depth)
    after = replace(after, holds={**tree.holds, reason: tree.active})
    return Plan((*steps, record(after)), after)


def delete(tree: Tree, snapshot_ids: Collection[str], visible: Visible, running: bool = False) -> Plan:
    """Deletes snapshots, in any order and several at once, with the least copying. ``running``: a guest has the volume open.

    Raises Conflict naming the linked volumes that read one of them. What a branch, a backup or another volume still needs
    stays as a file without a snapshot, and is merged when the need ends.
    """
    check(tree)
    for snapshot_id in snapshot_ids:
        linked = tree.shared.get(_file_of(tree, snapshot_id), ())
        if linked:
            raise Conflict(
                f"snapshot {snapshot_id} cannot be deleted: linked volumes read it ({len(linked)}), the first is {linked[0]}",
                dependants=list(linked),
            )
    freed = [tree.snapshots[snapshot_id] for snapshot_id in snapshot_ids]
    kept = {key: file for key, file in tree.snapshots.items() if key not in snapshot_ids}
    return release_files(replace(tree, snapshots=kept), freed, visible, running)


def _file_of(tree: Tree, snapshot_id: str) -> str:
    """Returns the file that has the snapshot. Raises ChainConflict for one that was deleted after it was looked up."""
    if snapshot_id not in tree.snapshots:
        raise ChainConflict(f"snapshot {snapshot_id} is not among those of volume {tree.volume_id} any more")
    return tree.snapshots[snapshot_id]


def revert(tree: Tree, snapshot_id: str, overlay: str, removed: Collection[str], visible: Visible) -> Plan:
    """A new active file on the snapshot's data; the file active so far is held until the revert can no more be undone.

    ``removed`` are newer snapshots that are deleted; their files stay as long as the undo does.
    """
    before = tree.active
    steps, after = _overlay(tree, overlay, _file_of(tree, snapshot_id), 1 << 30)
    kept = {key: file for key, file in tree.snapshots.items() if key not in removed}
    older = [file for reason, file in tree.holds.items() if reason == UNDO]
    after = replace(after, active=overlay, snapshots=kept, holds={**tree.holds, UNDO: before})
    rest = release_files(after, older, visible)
    return Plan((*steps, *rest.steps), rest.after)


def undo_revert(tree: Tree) -> Plan:
    """Back to the file that was active before the revert. The caller has seen that nothing was written since.

    A volume that was extended meanwhile keeps its size: the file that was held is grown first."""
    check(tree)
    if UNDO not in tree.holds:
        raise Conflict(f"volume {tree.volume_id} has no revert that can be undone", volume_id=tree.volume_id)
    dropped = tree.images[tree.active]
    held = tree.images[tree.holds[UNDO]]
    grown = replace(held, size=max(held.size, dropped.size))
    resize = () if grown == held else (Resize(grown.name, grown.format, grown.size),)
    rest = {reason: file for reason, file in tree.holds.items() if reason != UNDO}
    after = replace(with_image(tree, grown), active=grown.name, holds=rest)
    return Plan((*resize, record(after), Trash(dropped.name)), without_image(after, dropped.name))


def release(tree: Tree, reason: str, visible: Visible, running: bool = False) -> Plan:
    """Ends a hold: files that were kept only for it are merged or removed."""
    check(tree)
    freed = [file for key, file in tree.holds.items() if key == reason]
    kept = {key: file for key, file in tree.holds.items() if key != reason}
    return release_files(replace(tree, holds=kept), freed, visible, running)


def clean_up(tree: Tree, visible: Visible, running: bool = False, ends: bool = False) -> Plan | None:
    """Merges files that nobody needs any more, such as one that only a deleted linked clone needed, and gives a lone file its
    name back; None when there is nothing to do.

    ``ends``: removes ends of branches that nobody needs, too. Only for a caller who knows that the share agrees with the rows
    on the active file; what lies above that may be about to become it and stays.
    """
    check(tree)
    loose = [name for name in tree.images if not tree.reasons(name) and (tree.children(name) or ends)]
    loose = [name for name in loose if tree.active not in {image.name for image in tree.path(name).images}]
    renames = [] if running else _base_name(tree)[0]
    ready = [name for name in loose if not tree.children(name) or merge.run_at(tree, name)]
    return release_files(tree, loose, visible, running) if renames or ready else None


def replace_active(tree: Tree, new: Image, visible: Visible) -> Plan:
    """The volume's writes go to ``new``, which holds the whole content already; the file active so far goes."""
    check(tree)
    freed = [tree.active]

    def seen(name: str) -> Sequence[int]:
        return (new.size,) if name == new.name else visible(name)  # it does not exist yet, so it cannot be weighed

    return release_files(replace(with_image(tree, new), active=new.name), freed, seen)


def extend(tree: Tree, size: int) -> Plan:
    """Grows the active file to ``size`` bytes; what lies below keeps its size."""
    check(tree)
    active = tree.images[tree.active]
    if size < active.size:
        raise Conflict(f"volume {tree.volume_id} has {active.size} bytes and cannot shrink to {size}")
    return Plan((Resize(tree.active, active.format, size),), with_image(tree, replace(active, size=size)))


def _overlay(tree: Tree, name: str, backing: str, max_depth: int) -> tuple[tuple[Step, ...], Tree]:
    check(tree)
    depth = tree.path(backing).depth
    if depth >= max_depth:
        raise Conflict(
            f"volume {tree.volume_id} has {depth} files in its chain, the most allowed is {max_depth}; delete a snapshot first",
            volume_id=tree.volume_id,
            depth=depth,
        )
    tree.check_belongs(name)
    if name in tree.images:
        raise Conflict(f"volume {tree.volume_id} has a file {name} already", volume_id=tree.volume_id)
    size, below = tree.images[tree.active].disk_size, tree.images[backing]
    made = Image(name, "qcow2", size, below.name, below.format)
    step = CreateOverlay(name, below.name, below.format, size)
    return (step,), replace(with_image(tree, made), active=name)


def record(tree: Tree) -> Record:
    return Record(tree.active, dict(tree.snapshots), {key: tree.overlay_of(key) for key in tree.snapshots})


def release_files(tree: Tree, freed: Collection[str], visible: Visible, running: bool = False) -> Plan:
    """Removes or merges whatever is not needed any more after the references to ``freed`` were removed."""
    steps: list[Step] = []
    tree, leaves, freed = _trim(tree, freed)
    if leaves:
        steps += [record(tree), *(Trash(name) for name in leaves)]
    done: set[str] = set()
    for name in sorted(freed):
        run = merge.run_at(tree, name) if name in tree.images and name not in done else None
        if run is not None:
            done |= set(run.files)
            for merged in merge.plan(tree, run, visible(run.top), running):
                tree = merged.after
                steps += [*merged.steps, record(tree), *(Trash(gone) for gone in merged.gone)]
                if merged.rename is not None:
                    tree = merge.renamed(tree, merged.rename)
                    steps += [merged.rename, record(tree)]
    if not running:
        renamed, tree = _base_name(tree)
        steps += renamed
    return Plan(tuple(steps) or (record(tree),), tree)


def _trim(tree: Tree, freed: Collection[str]) -> tuple[Tree, list[str], set[str]]:
    """Removes the ends of branches that nobody needs, downwards. Returns the removed files, and those that may be merged
    now."""
    gone: list[str] = []
    candidates = set(freed)
    while True:
        leaf = next((name for name in sorted(candidates) if not tree.children(name) and not tree.reasons(name)), None)
        if leaf is None:
            return tree, gone, candidates
        below = tree.parent(leaf)
        tree, candidates = without_image(tree, leaf), candidates - {leaf}
        gone.append(leaf)
        if below is not None:
            candidates.add(below)


def _base_name(tree: Tree) -> tuple[list[Step], Tree]:
    """A volume without snapshots is one file with the volume's own name again."""
    base = tree.base
    if len(tree.images) != 1 or tree.active == base or tree.reasons(tree.active)[1:]:
        return [], tree
    step = Rename(tree.active, base)
    after = merge.renamed(tree, step)
    return [step, record(after)], after

"""Plans for volumes with snapshots of their own: every file is raw, stands alone, and shares its blocks with others.

Nothing is backed by anything, so nothing is merged: what is not needed is removed. The rest of a plan is the same as for chains
(``plan.delete``, ``plan.release``, ``plan.clean_up``, ``plan.extend``, ``plan.replace_active``).
"""

from collections.abc import Collection
from dataclasses import replace

from stillframe.chain import names, plan
from stillframe.chain.image import Image
from stillframe.chain.plan import Plan
from stillframe.chain.steps import Clone
from stillframe.chain.tree import Tree, check, with_image
from stillframe.errors import ChainConflict, Conflict


def snapshot(tree: Tree, snapshot_id: str) -> Plan:
    """A clone of the active file holds the snapshot's data; the volume continues in its own file."""
    if snapshot_id in tree.snapshots:
        raise Conflict(f"volume {tree.volume_id} has a snapshot {snapshot_id} already", volume_id=tree.volume_id)
    name = names.overlay_name(tree.volume_id, snapshot_id)
    step, after = _clone(tree, name, tree.active)
    after = replace(after, snapshots={**tree.snapshots, snapshot_id: name})
    return Plan((step, plan.record(after)), after)


def hold(tree: Tree, reason: str, name: str) -> Plan:
    """As ``snapshot``, but the clone ``name`` is held for something that is no snapshot, such as a backup's successor."""
    step, after = _clone(tree, name, tree.active)
    after = replace(after, holds={**tree.holds, reason: name})
    return Plan((step, plan.record(after)), after)


def revert(tree: Tree, snapshot_id: str, name: str, removed: Collection[str]) -> Plan:
    """A clone of the snapshot's file becomes the active file ``name``, of the volume's present size; the file active so far is
    removed. ``removed`` are newer snapshots that are deleted with it."""
    if snapshot_id not in tree.snapshots:
        raise ChainConflict(f"snapshot {snapshot_id} is not among those of volume {tree.volume_id} any more")
    step, after = _clone(tree, name, tree.snapshots[snapshot_id])
    kept = {key: file for key, file in tree.snapshots.items() if key not in removed}
    freed = [tree.active, *(tree.snapshots[key] for key in removed)]
    rest = plan.release_files(replace(after, active=name, snapshots=kept), freed, lambda _name: ())
    return Plan((step, *rest.steps), rest.after)


def _clone(tree: Tree, name: str, source: str) -> tuple[Clone, Tree]:
    check(tree)
    tree.check_belongs(name)
    if name in tree.images:
        raise Conflict(f"volume {tree.volume_id} has a file {name} already", volume_id=tree.volume_id)
    size = tree.images[tree.active].size
    return Clone(name, source, size), with_image(tree, Image(name, "raw", size))

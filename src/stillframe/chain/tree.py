"""All files of one volume, as a value: who is backed by whom, and what each file is still needed for.

A volume without branches is a chain. A revert that keeps newer snapshots, and linked clones, make it a tree: a file may
back several others. A file is *needed* while it receives the volume's writes, holds a snapshot's data, is held for a
backup or for the undo of a revert, or backs a file of another volume. What is not needed is merged or removed, except
where that would change what somebody else reads (I2).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from stillframe.chain import names
from stillframe.chain.image import Chain, Image, check_link
from stillframe.errors import ChainConflict

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Tree:
    """``snapshots`` maps a snapshot's id to the file that holds its data, ``holds`` another reason ("backup <id>", "undo")
    to the file kept for it, ``shared`` a file to the volumes that are linked to it. ``parent_image`` is the file of another
    volume that a linked clone's own lowest file is backed by, ``base_file`` the name of the base of an adopted volume."""

    volume_id: str
    images: Mapping[str, Image]
    active: str
    snapshots: Mapping[str, str] = field(default_factory=dict)
    holds: Mapping[str, str] = field(default_factory=dict)
    shared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parent_image: Image | None = None
    base_file: str | None = None

    @property
    def base(self) -> str:
        """The name of the volume's base."""
        return names.base_name(self.volume_id, self.base_file)

    def check_belongs(self, name: str) -> str:
        """Returns ``name`` if it is one of the volume's file names; raises BadImage otherwise (I1)."""
        return names.check_belongs(name, self.volume_id, self.base_file)

    def children(self, name: str) -> list[str]:
        """Files of this volume that ``name`` backs, in the order of their names."""
        return sorted(image.name for image in self.images.values() if image.backing == name)

    def parent(self, name: str) -> str | None:
        """The file of this volume that backs ``name``; None for a lowest file."""
        backing = self.images[name].backing
        return backing if backing in self.images else None

    def path(self, name: str) -> Chain:
        """The chain a reader of ``name`` reads, the lowest file first; without the parent image of a linked clone."""
        found = [self.images[name]]
        while found[-1].backing in self.images and len(found) <= len(self.images):
            found.append(self.images[str(found[-1].backing)])
        return Chain(self.volume_id, tuple(reversed(found)))

    def reasons(self, name: str) -> list[str]:
        """Why a file is needed, in words; empty for one that is not."""
        found = ["it receives the volume's writes"] if name == self.active else []
        found += [f"snapshot {snapshot_id}" for snapshot_id, file in self.snapshots.items() if file == name]
        found += [why for why, file in self.holds.items() if file == name]
        return found + [f"linked volume {volume_id}" for volume_id in self.shared.get(name, ())]

    def is_read_elsewhere(self, name: str) -> bool:
        """Tells whether another volume reads this file or one above it: then nothing of it may change (I2)."""
        return bool(self.shared.get(name)) or any(self.is_read_elsewhere(child) for child in self.children(name))

    def overlay_of(self, snapshot_id: str) -> str | None:
        """The file that received the writes after the snapshot: on the way to the active file if it is there, else the first
        branch; None for the tip of a branch that was left."""
        above = self.children(self.snapshots[snapshot_id])
        on_path = {image.name for image in self.path(self.active).images}
        return next((name for name in above if name in on_path), above[0] if above else None)

    @property
    def depth(self) -> int:
        """Files in the active chain."""
        return self.path(self.active).depth


def check(tree: Tree) -> Tree:
    """Returns the tree if it is valid; raises ChainConflict naming the first file that is not."""
    for image in tree.images.values():
        tree.check_belongs(image.name)
        _check_below(tree, image)
        if image.name not in {below.name for below in _walk(tree, image)}:
            raise ChainConflict(f"volume {tree.volume_id} has a loop in its backing chain at {image.name}")
    for what, name in (("active file", tree.active), *((f"file of snapshot {key}", f) for key, f in tree.snapshots.items())):
        if name not in tree.images:
            raise ChainConflict(f"the {what} of volume {tree.volume_id}, {name}, is missing on the share")
    for what, name in tree.holds.items():
        if name not in tree.images:
            raise ChainConflict(f"{name} of volume {tree.volume_id}, kept for {what}, is missing on the share")
    written = [key for key, name in tree.snapshots.items() if name == tree.active]
    if written:
        raise ChainConflict(f"{tree.active} receives writes and is said to hold snapshot {written[0]}")
    return tree


def _check_below(tree: Tree, image: Image) -> None:
    if image.backing is None or image.backing in tree.images:
        check_link(tree.volume_id, image, tree.images[image.backing] if image.backing else None)
    elif tree.parent_image is not None and image.backing == tree.parent_image.name:
        check_link(tree.volume_id, image, tree.parent_image)
    else:
        raise ChainConflict(f"{image.name} names {image.backing} as its backing file, which is no file of its volume")


def _walk(tree: Tree, image: Image) -> list[Image]:
    """Returns the path below an image, or nothing when it does not end."""
    found, seen = [image], {image.name}
    while found[-1].backing in tree.images:
        below = tree.images[str(found[-1].backing)]
        if below.name in seen:
            return []
        seen.add(below.name)
        found.append(below)
    return found


def with_image(tree: Tree, image: Image) -> Tree:
    return replace(tree, images={**tree.images, image.name: image})


def without_image(tree: Tree, name: str) -> Tree:
    return replace(tree, images={key: image for key, image in tree.images.items() if key != name})


def moved(tree: Tree, old: str, new: str) -> Tree:
    """Returns the tree with ``new`` in place of the file ``old``: same content, another name."""
    return replace(
        tree,
        active=new if tree.active == old else tree.active,
        snapshots={key: new if file == old else file for key, file in tree.snapshots.items()},
        holds={key: new if file == old else file for key, file in tree.holds.items()},
    )

"""Applies steps to chains held as values: what a plan would leave, without touching a file.

A layer maps cluster numbers to content; a cluster it does not hold is read from its backing file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from stillframe.chain.steps import Commit, CreateOverlay, SetActive, Step, Trash


@dataclass(frozen=True)
class Layer:
    backing: str | None = None
    clusters: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class World:
    """The files of a share and which of them receives the volume's writes."""

    files: Mapping[str, Layer]
    active: str


def apply(world: World, step: Step) -> World:
    """Returns the world after the step; raises KeyError or ValueError where a real share would fail."""
    files = dict(world.files)
    match step:
        case CreateOverlay(name=name, backing=backing):
            if name in files or backing not in files:
                raise ValueError(f"{name} exists or {backing} does not")
            files[name] = Layer(backing)
        case Commit(top=top, base=base):
            if files[top].backing != base:
                raise ValueError(f"{top} is not backed by {base}")
            files[base] = replace(files[base], clusters={**files[base].clusters, **files[top].clusters})
        case SetActive(name=name):
            if name not in files:
                raise ValueError(f"{name} does not exist")
            return World(files, name)
        case Trash(name=name):
            if name == world.active or any(layer.backing == name for layer in files.values()):
                raise ValueError(f"{name} is in use")
            del files[name]
    return World(files, world.active)


def write(world: World, cluster: int, value: int) -> World:
    """What the guest does: writes to the active file."""
    active = world.files[world.active]
    changed = replace(active, clusters={**active.clusters, cluster: value})
    return replace(world, files={**world.files, world.active: changed})


def content(world: World, name: str) -> dict[int, int]:
    """Returns every cluster as a reader of the chain below ``name`` sees it."""
    layer = world.files[name]
    below = content(world, layer.backing) if layer.backing else {}
    return {**below, **layer.clusters}

"""Applies steps to files held as values: what a plan would leave, without touching a file.

A layer maps cluster numbers to content; a cluster it does not hold is read from its backing file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from stillframe.chain.steps import Clone, Commit, CreateOverlay, Pull, Record, Rename, Repoint, Resize, Step, Trash


@dataclass(frozen=True)
class Layer:
    backing: str | None = None
    clusters: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerContext:
    """The files of a share and which of them receives the volume's writes."""

    files: Mapping[str, Layer]
    active: str


def apply(worker: WorkerContext, step: Step) -> WorkerContext:  # noqa: C901 -- one arm a verb
    """Returns the files after the step; raises KeyError or ValueError where a real share would fail."""
    files = dict(worker.files)
    match step:
        case CreateOverlay(name=name, backing=backing):
            if name in files or backing not in files:
                raise ValueError(f"{name} exists or {backing} does not")
            files[name] = Layer(backing)
        case Clone(name=name, source=source):
            if name in files or files[source].backing is not None:
                raise ValueError(f"{name} exists, or {source} does not stand alone")
            files[name] = files[source]
        case Commit(top=top, base=base):
            if base not in _below(worker, top):
                raise ValueError(f"{top} is not backed by {base}")
            files[base] = replace(files[base], clusters={**files[base].clusters, **between(worker, top, base)})
        case Pull(name=name, backing=backing):
            files[name] = Layer(backing, between(worker, name, backing))
        case Repoint(name=name, backing=backing):
            files[name] = replace(files[name], backing=backing)
            if content(WorkerContext(files, worker.active), name) != content(worker, name):
                raise ValueError(f"{name} reads differently on {backing}")
        case Rename(name=name, to=to):
            if to in files or any(layer.backing in (name, to) for layer in files.values()):
                raise ValueError(f"{to} exists, or {name} backs another file")
            files[to] = files.pop(name)
        case Record(active=name):
            if name not in files:
                raise ValueError(f"{name} does not exist")
            return WorkerContext(files, name)
        case Trash(name=name):
            if name == worker.active or any(layer.backing == name for layer in files.values()):
                raise ValueError(f"{name} is in use")
            del files[name]
        case Resize():
            pass
    return WorkerContext(files, worker.active)


def _below(worker: WorkerContext, name: str) -> list[str]:
    found: list[str] = []
    below = worker.files[name].backing
    while below is not None:
        found.append(below)
        below = worker.files[below].backing
    return found


def between(worker: WorkerContext, top: str, base: str | None) -> dict[int, int]:
    """The clusters a reader of ``top`` finds above ``base``."""
    merged: dict[int, int] = {}
    name: str | None = top
    while name is not None and name != base:
        merged = {**worker.files[name].clusters, **merged}
        name = worker.files[name].backing
    return merged


def visible(worker: WorkerContext, top: str) -> list[int]:
    """Clusters a reader of ``top`` finds in it, in what backs it, and so on."""
    found, seen = [], set[int]()
    for name in (top, *_below(worker, top)):
        clusters = set(worker.files[name].clusters) - seen
        found.append(len(clusters))
        seen |= clusters
    return found


def write(worker: WorkerContext, cluster: int, value: int) -> WorkerContext:
    """What the guest does: writes to the active file."""
    active = worker.files[worker.active]
    changed = replace(active, clusters={**active.clusters, cluster: value})
    return replace(worker, files={**worker.files, worker.active: changed})


def content(worker: WorkerContext, name: str) -> dict[int, int]:
    """Returns every cluster as a reader of the chain below ``name`` sees it."""
    layer = worker.files[name]
    below = content(worker, layer.backing) if layer.backing else {}
    return {**below, **layer.clusters}

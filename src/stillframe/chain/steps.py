"""The vocabulary of chain steps, as values. They say what is to be done; the executors that do it are elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CreateOverlay:
    """Publish an empty overlay on top of ``backing``. ``size`` is the virtual size in bytes. Cost: nothing to copy."""

    name: str
    backing: str
    backing_format: str
    size: int


@dataclass(frozen=True)
class Clone:
    """Publish ``name``, a raw file of its own of ``size`` bytes that shares every block with ``source`` as that is at this
    instant. Cost: nothing to copy."""

    name: str
    source: str
    size: int


@dataclass(frozen=True)
class Commit:
    """Copy what lies in (``base``, ``top``] down into ``base``. ``bytes`` is what is copied at most. ``top`` keeps its
    content; what it is backed by stays as it is until it is removed."""

    top: str
    base: str
    base_format: str
    bytes: int


@dataclass(frozen=True)
class Pull:
    """Copy what lies between ``name`` and ``backing`` up into ``name``, which is backed by ``backing`` afterwards (by
    nothing where that is None). ``bytes`` is what is copied at most."""

    name: str
    backing: str | None
    backing_format: str | None
    bytes: int


@dataclass(frozen=True)
class Repoint:
    """Let ``name`` be backed by ``backing`` from here on. Copies nothing: both old and new backing read the same."""

    name: str
    backing: str
    backing_format: str


@dataclass(frozen=True)
class Rename:
    """Give ``name``, which nothing is backed by, the name ``to``, which is free."""

    name: str
    to: str


@dataclass(frozen=True)
class Record:
    """Write down beside the files what they are from here on: the active file, the file that holds each snapshot's data, and
    the overlay that received the writes after it (None at the tip of a branch that was left)."""

    active: str
    snapshots: Mapping[str, str]
    overlays: Mapping[str, str | None]


@dataclass(frozen=True)
class Trash:
    """Remove ``name``: first renamed, then unlinked, and only when nothing refers to it (I4)."""

    name: str


@dataclass(frozen=True)
class Resize:
    """Grow ``name`` to ``size`` bytes."""

    name: str
    format: str
    size: int


Step = CreateOverlay | Clone | Commit | Pull | Repoint | Rename | Record | Trash | Resize


def written(steps: Sequence["Step"]) -> frozenset[str]:
    """Returns the files into which the steps write, other than those they make."""
    return frozenset(
        step.base if isinstance(step, Commit) else step.name
        for step in steps
        if isinstance(step, Commit | Pull | Repoint | Resize)
    )


def removed(steps: Sequence["Step"]) -> frozenset[str]:
    """Returns the files that the steps remove."""
    return frozenset(step.name for step in steps if isinstance(step, Trash))


def cost(steps: Sequence[Step]) -> int:
    """Bytes the steps copy at most."""
    return sum(step.bytes for step in steps if isinstance(step, Commit | Pull))

"""The vocabulary of chain steps, as values. They say what is to be done; hands that do it lie elsewhere."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class CreateOverlay:
    """Publish an empty overlay on top of ``backing``. ``size`` is the virtual size in bytes. Cost: nothing to copy."""

    name: str
    backing: str
    backing_format: str
    size: int


@dataclass(frozen=True)
class Commit:
    """Copy what ``top`` holds down into ``base``, which backs it. ``bytes`` is what is copied at most."""

    top: str
    base: str
    bytes: int


@dataclass(frozen=True)
class SetActive:
    """From here on ``name`` receives the volume's writes; recorded beside the files."""

    name: str


@dataclass(frozen=True)
class Trash:
    """Remove ``name``: first renamed, then unlinked, and only when nothing refers to it (I4)."""

    name: str


Step = CreateOverlay | Commit | SetActive | Trash


def to_document(step: Step) -> dict[str, Any]:
    """Returns ``{"verb": <class name>, "args": {...}}``, the form the journal stores."""
    return {"verb": type(step).__name__, "args": asdict(step)}

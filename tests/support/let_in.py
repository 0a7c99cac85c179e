"""Lets programs of the host room use files of a test too: a program in place of another, a library, what one writes down."""

from pathlib import Path

import pytest

from stillframe.host import confinement


def let_in(patch: pytest.MonkeyPatch, *paths: Path) -> None:
    """They may be read, run and written. What does not exist as yet is let in below its directory only."""
    for name in ("_PROGRAMS", "_DEVICES"):
        patch.setattr(confinement, name, (*getattr(confinement, name), *map(str, paths)))

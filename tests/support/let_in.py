"""Allows programs that the host room confines to use a test's files: a program in place of another, a library, an output
file."""

from pathlib import Path

import pytest

from stillframe.host import confinement


def let_in(patch: pytest.MonkeyPatch, *paths: Path) -> None:
    """The files may be read, executed and written. One that does not exist yet is allowed only below its directory."""
    for name in ("_PROGRAMS", "_DEVICES"):
        patch.setattr(confinement, name, (*getattr(confinement, name), *map(str, paths)))

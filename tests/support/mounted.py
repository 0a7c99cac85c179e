"""What is mounted where, as tests ask."""

from pathlib import Path

from stillframe.host import mounts


def is_mounted(point: Path, kind: mounts.Kind, export: str) -> bool:
    """Tells whether exactly this export is mounted there, by whomever."""
    return mounts._is(mounts.find(point), kind, export)

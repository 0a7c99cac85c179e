"""Resolves a path that somebody else wrote down, and never hangs on a file system whose server is away."""

import os
from collections.abc import Sequence

from stillframe.host import mounts
from stillframe.host.probe import Answering

_MOST_LINKS = 40  # the kernel's limit
_answers = Answering()


def followed(path: str, points: Sequence[str] | None = None) -> str | None:
    """Returns the path without symbolic links; None when it leads through a file system that does not answer, or in circles.

    ``points`` are mount points of network file systems, by default ``mounts.network_points``. Raises ShareUnavailable when that
    cannot be found out.
    """
    known = mounts.network_points() if points is None else points
    current, rest, links = "/", _parts(path), 0
    while rest:
        part = rest.pop()
        if part == "..":
            current = os.path.dirname(current)
            continue
        following = os.path.join(current, part)
        if not all(_answers(point) for point in known if _is_below(following, point)):
            return None
        try:
            target = os.readlink(following)
        except OSError:  # not a link, or it does not exist
            current = following
            continue
        links += 1
        if links > _MOST_LINKS:
            return None
        current = "/" if os.path.isabs(target) else current
        rest += _parts(target)
    return current


def _parts(path: str) -> list[str]:
    """The names along the path, the last one first."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def _is_below(path: str, point: str) -> bool:
    return path == point or path.startswith(f"{point.rstrip('/')}/")

"""What commands that wait have in common: how long, what is shown meanwhile, and with which code they end."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cliff.command import Command

from stillframe.client.assisted_snapshots import Document
from stillframe.errors import StillRunning

NOT_AS_REQUIRED = 3  # the set is there, but not as consistent as --require asked for
STILL_RUNNING = 4  # --timeout passed; the work continues


class Waits(Command):
    """A command with ``--wait`` and ``--timeout``; ``exit_code`` is what it ends with when nothing was raised."""

    auth_required = True
    exit_code = 0

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Called by cliff; returns the exit code. What is raised ends with 1, but for a wait that was bounded."""
        try:
            return int(super().run(parsed_args)) or self.exit_code
        except StillRunning as error:
            app: Any = self.app
            app.LOG.error(error)
            return STILL_RUNNING


def add_wait_options(parser: argparse.ArgumentParser, until: str) -> None:
    """Adds ``--wait`` and ``--timeout SECONDS``."""
    parser.add_argument("--wait", action="store_true", help=f"Wait until {until}, however long that takes")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="<seconds>",
        help=f"Wait no longer than that; then end with code {STILL_RUNNING} while the work continues. Implies --wait",
    )


def is_to_wait(given: argparse.Namespace) -> bool:
    """Tells whether the command ends only when the work has."""
    return bool(given.wait) or given.timeout is not None


class Remaining:
    """What is left of ``--timeout`` for all that one command waits for; None: there is no end."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def seconds(self) -> float | None:
        return None if self._end is None else max(0.0, self._end - time.monotonic())


def _seconds(text: str) -> float:
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return float(text)


@contextmanager
def progress(title: str) -> Iterator[Any]:
    """Yields a function to call with the state of what is waited for: a bar on a terminal, a line per change otherwise."""
    if not sys.stderr.isatty():
        yield _lines(title)
        return
    from rich.console import Console  # only for who waits at a terminal
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=100)
        yield lambda found: bar.update(task, completed=found["progress"], description=f"{title}{_why(found)}")


def _lines(title: str) -> Callable[[Document], None]:
    seen: set[tuple[str, int, str]] = set()

    def line(found: Document) -> None:
        now = (str(found["status"]), int(found["progress"]), _why(found))
        if now not in seen:
            seen.add(now)
            sys.stderr.write(f"{title}: {now[0]} {now[1]} %{now[2]}\n")

    return line


def _why(found: Document) -> str:
    waiting = found.get("fault") if found["status"] == "creating" else None
    return f" ({waiting})" if waiting else ""

"""Asks the person at the terminal before something is done that nobody can take back."""

import sys
from collections.abc import Callable

from stillframe.errors import BadRequest


def may(question: str, yes: bool, say: Callable[[str], None]) -> bool:
    """Tells whether the person agrees; ``yes``: they did on the command line. Raises BadRequest when nobody can be asked."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise BadRequest("nothing was done: say --yes to have it done without being asked")
    if input(f"{question} [y/N] ").strip().lower() in ("y", "yes"):
        return True
    say("nothing was done")
    return False

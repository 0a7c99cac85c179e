"""Asks the person at the terminal before something is done that cannot be undone."""

import sys
from collections.abc import Callable

from stillframe.errors import BadRequest


def may(question: str, yes: bool, say: Callable[[str], None]) -> bool:
    """Tells whether the person agrees; ``yes``: they did on the command line. Raises BadRequest when there is nobody to ask."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise BadRequest("nothing was done, because there is nobody to ask: repeat with --yes")
    if input(f"{question} [y/N] ").strip().lower() in ("y", "yes"):
        return True
    say("nothing was done")
    return False

"""The same call for every disk of a set, a few at a time."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

AT_ONCE = 4
In = TypeVar("In")
Out = TypeVar("Out")


def side_by_side(act: Callable[[In], Out], items: Iterable[In]) -> list[Out]:
    """Returns the answers in the order of the items. All calls have ended when it returns; the first error is raised."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        begun = [pool.submit(act, item) for item in items]
    return [call.result() for call in begun]

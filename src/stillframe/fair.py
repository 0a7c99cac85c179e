"""A queue that serves its callers in turn, so that one caller's many items do not delay another's single one."""

from collections import OrderedDict, deque
from collections.abc import Container
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Items by who asked for them. Not locked: whoever uses it from several threads has a lock already."""

    def __init__(self) -> None:
        self._by_name: OrderedDict[str, deque[Item]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, name: str, item: Item) -> None:
        self._by_name.setdefault(name, deque()).append(item)
        self._count += 1

    def has(self, passed_over: Container[str] = ()) -> bool:
        """Tells whether somebody waits who is not passed over."""
        return any(name not in passed_over for name in self._by_name)

    def pop(self, passed_over: Container[str] = ()) -> Item:
        """Returns the oldest item of the caller whose turn it is. Raises KeyError when there is none."""
        name = next((name for name in self._by_name if name not in passed_over), None)
        if name is None:
            raise KeyError("nobody waits")
        items = self._by_name.pop(name)
        item = items.popleft()
        if items:
            self._by_name[name] = items  # last again
        self._count -= 1
        return item

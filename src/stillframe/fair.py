"""A queue in which those who ask take turns, so that one's many do not hold up another's one."""

from collections import OrderedDict, deque
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

    def pop(self) -> Item:
        """Returns the oldest item of whose turn it is. Raises KeyError when there is none."""
        name, items = self._by_name.popitem(last=False)
        item = items.popleft()
        if items:
            self._by_name[name] = items  # last again
        self._count -= 1
        return item

"""A queue that serves its callers in turn, so that one caller's many items do not delay another's single one."""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Callers take turns, and so do the kinds of items of one caller. The queue has no lock: a user with several threads
    brings its own."""

    def __init__(self) -> None:
        self._by_name: OrderedDict[str, OrderedDict[str, deque[Item]]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, name: str, item: Item, kind: str = "") -> None:
        self._by_name.setdefault(name, OrderedDict()).setdefault(kind, deque()).append(item)
        self._count += 1

    def pop(self) -> Item:
        """Returns the oldest item of the kind and the caller whose turn it is. Raises KeyError when there is none."""
        found = self.pop_where(lambda _item: True)
        if found is None:
            raise KeyError("nobody waits")
        return found

    def pop_where(self, may: Callable[[Item], bool]) -> Item | None:
        """Like ``pop``, but considers only the items that ``may`` accepts. Returns None when there is none."""
        for name, kinds in self._by_name.items():
            for kind, items in kinds.items():
                place = next((number for number, item in enumerate(items) if may(item)), None)
                if place is not None:
                    return self._take(name, kind, place)
        return None

    def _take(self, name: str, kind: str, place: int) -> Item:
        kinds = self._by_name.pop(name)
        items = kinds.pop(kind)
        item = items[place]
        del items[place]
        if items:
            kinds[kind] = items  # last again
        if kinds:
            self._by_name[name] = kinds
        self._count -= 1
        return item

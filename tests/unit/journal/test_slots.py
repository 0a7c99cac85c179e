"""A limited kind: so many at work on a share, so many on the host."""

from types import SimpleNamespace
from typing import Any

from stillframe.journal.slots import Lanes, Slots

LANES = Lanes(4, {"merge": 2}, lambda operation: str(operation.intent["share"]), {"merge": 3})


def merge(name: str, share: str = "a", kind: str = "merge") -> Any:
    return SimpleNamespace(id=name, kind=kind, intent={"share": share})


def test_a_share_and_the_host_have_so_many_at_work() -> None:
    slots = Slots(LANES)
    assert [slots.take(merge(name), "a") for name in "123"] == [True, True, False]
    assert [slots.take(merge(name, "b"), "b") for name in "45"] == [True, False]
    assert slots.leave("1")
    assert slots.take(merge("5", "b"), "b")
    assert not slots.take(merge("3"), "a")


def test_who_is_at_work_keeps_its_slot_and_takes_no_second() -> None:
    slots = Slots(LANES)
    assert all(slots.take(merge("1"), "a") for _ in range(5))
    assert slots.take(merge("2"), "a")
    assert sorted(slots.holders()) == ["1", "2"]


def test_another_kind_needs_none() -> None:
    slots = Slots(LANES)
    assert all(slots.take(merge(str(number), kind="copy"), "a") for number in range(9))
    assert not slots.holders()
    assert not slots.leave("1")


def test_what_was_at_work_before_this_process_counts() -> None:
    slots = Slots(LANES)
    for name in "123":
        slots.keep(merge(name))  # more than there may be: they run in QEMU, whatever the limit is now
    assert not slots.take(merge("4"), "a")
    assert slots.take(merge("1"), "a")

"""Where files that share blocks may differ."""

import pytest

from stillframe.host.differences import Extent, _apart

MIB = 1 << 20


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ([], [], 0),
        ([Extent(0, 8, 100)], [Extent(0, 8, 100)], 0),
        ([Extent(0, 8, 100)], [], 8),
        ([Extent(0, 8, 100)], [Extent(0, 8, 200)], 8),
        ([Extent(0, 8, None)], [Extent(0, 8, None)], 8),
        # One extent where the other file has it in two pieces, of which the second was written anew.
        ([Extent(0, 8, 100)], [Extent(0, 4, 100), Extent(4, 8, 300)], 4),
        ([Extent(0, 8, 100)], [Extent(0, 4, 100), Extent(4, 8, 104)], 0),
        # A hole was punched into the middle.
        ([Extent(0, 2, 100), Extent(6, 8, 106)], [Extent(0, 8, 100)], 4),
        ([Extent(2, 4, 100), Extent(10, 12, 108)], [Extent(4, 6, 50), Extent(10, 11, 108)], 5),
    ],
)
def test_only_blocks_at_one_place_are_surely_the_same(one: list[Extent], other: list[Extent], apart: int) -> None:
    assert _apart(one, other) == _apart(other, one) == apart


def test_many_extents_are_compared_in_one_pass() -> None:
    one = [Extent(number * 2, number * 2 + 1, number * 2) for number in range(20_000)]
    assert _apart(one, one) == 0
    assert _apart(one, [each.cut(each.start, each.end) for each in one[1:]]) == 1

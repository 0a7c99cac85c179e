"""Whose request is next."""

from collections import deque
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.fair import FairQueue


@dataclass(frozen=True)
class Task:
    peer: str
    number: int


def test_peers_take_turns_and_each_peers_own_stay_in_order() -> None:
    queue = FairQueue[Task]()
    for task in (*(Task("a", number) for number in range(3)), Task("b", 0), Task("c", 0), Task("c", 1)):
        queue.push(task.peer, task)
    assert len(queue) == 6
    found = [queue.pop() for _ in range(6)]
    assert [(task.peer, task.number) for task in found] == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("c", 1), ("a", 2)]
    assert not queue
    with pytest.raises(KeyError):
        queue.pop()


@given(st.lists(st.one_of(st.sampled_from("abc"), st.none())))
def test_nothing_is_lost_and_nobody_waits_longer_than_one_round(moves: list[str | None]) -> None:
    queue, waiting = FairQueue[Task](), {peer: deque[Task]() for peer in "abc"}
    passed = dict.fromkeys("abc", 0)
    for number, move in enumerate(moves):
        if move is not None:
            queue.push(move, Task(move, number))
            waiting[move].append(Task(move, number))
        elif any(waiting.values()):
            found = queue.pop()
            assert waiting[found.peer].popleft() == found
            for peer in "abc":
                passed[peer] = 0 if peer == found.peer or not waiting[peer] else passed[peer] + 1
            assert max(passed.values()) <= 2
        assert len(queue) == sum(len(each) for each in waiting.values())

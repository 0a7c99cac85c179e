"""Two requests for one volume at the same moment: every pair of operations ends as one of the two orders, or one of them is
refused. Never both halves of something, never anything stuck."""

import itertools
import multiprocessing
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import pytest

from stillframe.volumes import housekeeping
from tests.support.oracle import Model
from tests.support.oracle_check import Checker
from tests.support.oracle_pairs import LOOK, REQUESTS, Asked, Scene, build, outcomes
from tests.support.oracle_reader import Reader
from tests.support.oracle_world import Block, Storage, fast_directory, fresh_copy, prepare

SECONDS = 60
PAIRS = list(itertools.combinations_with_replacement([*REQUESTS, LOOK], 2))


def worker(directory: Path, pipe: Connection, together: Barrier) -> None:
    """A process with a World of its own: asks when told to, at the same moment as the other one, then works on the journal
    as long as there is anything in it."""
    while (told := pipe.recv()) is not None:
        name, method, parameters = told
        block = Block(directory)
        try:
            block.volumes()  # connected and mounted: from here on the two are quick
            for pool in block.world.backends.pools:
                pool.share()
            together.wait(SECONDS)
            pipe.send(_ask(block, name, method, parameters))
            block.drain()
            pipe.send(None)
        except Exception as error:
            together.abort()  # the other one waits no longer
            pipe.send(error)
        finally:
            block.close()


def _ask(block: Block, name: str, method: str, parameters: dict[str, Any]) -> Asked:
    if name == LOOK:
        housekeeping.look(block.world)
        return Asked(name, True, None)
    answer = block.attempt(method, **parameters)
    return Asked(name, not answer.refused, answer.result, str(answer.error or ""))


@dataclass
class Stage:
    """Where pairs are played: the scene as it is before each, and two processes."""

    directory: Path
    template: Path
    scene: Scene
    model: Model
    reader: Reader
    pipes: tuple[Connection, Connection]
    together: Barrier

    def play(self, pair: tuple[str, str]) -> tuple[Asked, Asked]:
        fresh_copy(self.template, self.directory)
        for who, (pipe, name) in enumerate(zip(self.pipes, pair, strict=True)):
            request = REQUESTS.get(name)
            parameters = request.parameters(self.scene, f"number {who}") if request else {}
            pipe.send((name, request.method if request else "", parameters))
        first, second = (self._answer(pipe) for pipe in self.pipes)
        errors = [each for each in (first, second) if isinstance(each, Exception)]
        if errors:
            self.together.reset()
            raise AssertionError("a process met an error") from min(errors, key=lambda e: isinstance(e, BrokenBarrierError))
        assert isinstance(first, Asked)
        assert isinstance(second, Asked)
        return first, second

    @staticmethod
    def _answer(pipe: Connection) -> Asked | Exception:
        """The answer, when the process has no more to do."""
        answer: Asked | Exception | None = None
        while answer is None or isinstance(answer, Asked):
            assert pipe.poll(SECONDS), "a process does not come to an end"
            found = pipe.recv()
            if found is None:
                break
            answer = found
        assert answer is not None
        return answer


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    context = multiprocessing.get_context("spawn")
    together, reader = context.Barrier(2), Reader()
    with fast_directory() as directory:
        place, template = directory / "place", directory / "template"
        place.mkdir()
        prepare(place)
        block = Block(place)
        scene, model = build(block, reader)
        Checker(block, reader, model).check()
        block.close()
        shutil.copytree(place, template)
        ends = [context.Pipe() for _ in range(2)]
        children = [context.Process(target=worker, args=(place, far, together), daemon=True) for _near, far in ends]
        for child in children:
            child.start()
        try:
            yield Stage(place, template, scene, model, reader, (ends[0][0], ends[1][0]), together)
        finally:
            for near, _far in ends:
                near.send(None)
            for child in children:
                child.join(SECONDS)
            reader.close()


def check_one_of(storage: Storage, stage: Stage, asked: tuple[Asked, Asked]) -> str:
    """What lies there must be one of the outcomes; returns which, in words."""
    wrong = [f"{each.name}: {'accepted' if each.accepted else each.words}" for each in asked]
    for words, model in outcomes(stage.model, stage.scene, asked):
        try:
            Checker(storage, stage.reader, model).check()
        except AssertionError as error:
            wrong.append(f"not {words}: {error}")
        else:
            return words
    raise AssertionError("\n".join(["two requests came to neither of the two orders:", *wrong]))


@pytest.mark.parametrize("pair", PAIRS, ids=" + ".join)
def test_two_processes_that_ask_at_the_same_moment(stage: Stage, pair: tuple[str, str]) -> None:
    asked = stage.play(pair)
    block = Block(stage.directory)
    try:
        block.drain()
        check_one_of(block, stage, asked)
    finally:
        block.close()

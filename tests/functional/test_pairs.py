"""Two requests for one volume at the same moment: every pair of operations ends as one of the two orders, or one of them is
refused. Never both halves of something, never anything stuck."""

import itertools
import multiprocessing
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import pytest

from stillframe.db import operations
from stillframe.db.engine import Database
from stillframe.volumes import periodic
from tests.support.lab import Lab, open_lab
from tests.support.oracle import Model
from tests.support.oracle_check import Checker
from tests.support.oracle_pairs import LOOK, REQUESTS, Asked, Scene, build, build_small, outcomes
from tests.support.oracle_reader import Reader
from tests.support.oracle_service import THICK, THIN, Block, Storage, fast_directory, fresh_copy, prepare, settings, sparse_copy
from tests.support.stack import wait_for

Call = Callable[[dict[str, Any]], tuple[str, str, Any]]  # of a method's parameters: verb, path, body
SECONDS = 60
PAIRS = list(itertools.combinations_with_replacement([*REQUESTS, LOOK], 2))


def worker(directory: Path, pipe: Connection, together: Barrier) -> None:
    """A process with a worker context of its own: asks when told to, at the same moment as the other one, then works on the
    journal as long as there is anything in it."""
    database = Database(settings(directory).database)  # one for all: what it made of each query it need not make again
    while (told := pipe.recv()) is not None:
        name, method, parameters = told
        block = Block(directory, database)
        try:
            block.volumes()  # connected and mounted: from here on the two are quick
            for pool in block.worker.backends.pools:
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
        periodic.look(block.worker)
        return Asked(name, True, None)
    answer = block.attempt(method, **parameters)
    return Asked(name, not answer.refused, answer.result, str(answer.error or ""))


@dataclass
class Before:
    """The scene as it is before a pair is played."""

    template: Path
    scene: Scene
    model: Model


@dataclass
class Stage:
    """Where pairs are played: in a scene of a qcow2 volume or of a raw one, by two processes."""

    directory: Path
    scenes: Sequence[Before]
    reader: Reader
    database: Database
    pipes: tuple[Connection, Connection]
    together: Barrier

    def play(self, pair: tuple[str, str], before: Before) -> tuple[Asked, Asked]:
        """Both of a pair, asked of the scene."""
        fresh_copy(before.template, self.directory)
        told = []
        for who, name in enumerate(pair):
            request = REQUESTS.get(name)
            parameters = request.parameters(before.scene, f"number {who}") if request else {}
            told.append((name, request.method if request else "", parameters))
        return self.ask(told)

    def ask(self, told: Sequence[tuple[str, str, dict[str, Any]]]) -> tuple[Asked, Asked]:
        """Has each process ask one thing, at the same moment; returns when all that follows is done."""
        for pipe, each in zip(self.pipes, told, strict=True):
            pipe.send(each)
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
        place, empty = directory / "place", directory / "empty"
        place.mkdir()
        prepare(place)
        sparse_copy(place, empty)
        database = Database(settings(place).database)
        scenes = []
        for volume_type in (THIN, THICK):
            fresh_copy(empty, place)
            block = Block(place, database)
            scene, model = build(block, reader, volume_type)
            Checker(block, reader, model).check()
            block.close()
            scenes.append(Before(directory / volume_type, scene, model))
            sparse_copy(place, scenes[-1].template)
        ends = [context.Pipe() for _ in range(2)]
        children = [context.Process(target=worker, args=(place, far, together), daemon=True) for _near, far in ends]
        for child in children:
            child.start()
        try:
            yield Stage(place, scenes, reader, database, (ends[0][0], ends[1][0]), together)
        finally:
            for near, _far in ends:
                near.send(None)
            for child in children:
                child.join(SECONDS)
            reader.close()


def check_one_of(storage: Storage, reader: Reader, found: Iterator[tuple[str, Model]], asked: tuple[Asked, Asked]) -> Model:
    """What lies there must be one of the outcomes; returns which."""
    wrong = [f"{each.name}: {'accepted' if each.accepted else each.words}" for each in asked]
    for words, model in found:
        try:
            Checker(storage, reader, model).check()
        except AssertionError as error:
            wrong.append(f"not {words}: {error}")
        else:
            return model
    raise AssertionError("\n".join(["two requests came to neither of the two orders:", *wrong]))


@pytest.mark.parametrize("pair", PAIRS, ids=" + ".join)
def test_two_processes_that_ask_at_the_same_moment(stage: Stage, pair: tuple[str, str]) -> None:
    """Of a qcow2 volume and of a raw one, in turns."""
    before = stage.scenes[PAIRS.index(pair) % 2]
    asked = stage.play(pair, before)
    block = Block(stage.directory, stage.database)
    try:
        block.drain()
        check_one_of(block, stage.reader, outcomes(before.model, before.scene, asked), asked)
    finally:
        block.close()


@pytest.mark.parametrize(
    ("limit", "allowed", "method", "wanted"),
    [
        ("volumes", 2, "create_volume", {"size": 1, "volume_type": THIN}),
        ("gigabytes", 4, "create_volume", {"size": 1, "volume_type": THIN}),  # a volume and two snapshots have one each
        ("backups", 2, "create_backup", {"snapshot_id": "old"}),
    ],
)
def test_one_of_two_requests_that_exceed_a_quota_together_is_refused(
    stage: Stage, limit: str, allowed: int, method: str, wanted: dict[str, Any]
) -> None:
    before = stage.scenes[0]
    fresh_copy(before.template, stage.directory)
    block = Block(stage.directory, stage.database)
    try:
        block.call("set_quotas", project_id="demo", wanted={limit: allowed})  # there is room for one more
        if method == "create_backup":
            wanted = {"volume_id": before.scene.volume, "snapshot_id": before.scene.old}
        answers = stage.ask([("number one", method, {"wanted": wanted}), ("number two", method, {"wanted": wanted})])
        block.drain()
        assert sorted(each.accepted for each in answers) == [False, True], answers
        assert len(block.backups() if method == "create_backup" else block.volumes()) == 2
        assert not block.failed()
    finally:
        block.close()


class Served(Storage):
    """Services that run, and what must be there: everything that was made since they started."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._lab: Lab = open_lab(self._open.enter_context(fast_directory()))
        self._open.callback(self._lab.clear)
        self._service = self._lab.stack.service_api()
        state_dir = self._lab.stack.state_dir
        super().__init__(Database(f"sqlite:///{state_dir}/stillframe.sqlite"), [self._lab.stack.share], state_dir / "backups")
        self._open.callback(self.database.close)
        self.reader, self.model, self.broken = Reader(), Model(), False
        self._open.callback(self.reader.close)

    def end(self) -> None:
        self._open.close()

    def send(self, name: str, method: str, **parameters: Any) -> Asked:
        """Sends a request; refusals are 400, 404 and 409."""
        verb, path, body = CALLS[method](parameters)
        # Only a service is believed which server it is for.
        api = self._service if method == "create_attachment" else self._lab.stack.api()
        answer = api.send("volume", verb, path, body)
        assert answer.status_code < 300 or answer.status_code in (400, 404, 409), f"{name}: {answer.text}"
        accepted = answer.status_code < 300
        found = answer.json() if answer.content else {}
        result = next(iter(found.values())).get("id") if accepted and found else None
        return Asked(name, accepted, result, answer.text)

    def ask(self, method: str, **parameters: Any) -> str:
        answer = self.send(method, method, **parameters)
        assert answer.accepted, answer.words
        self.settle()
        return str(answer.result)

    def failed(self) -> list[str]:
        """The worker looks around by itself: what has only begun has not failed."""
        return [words for words in super().failed() if not re.search(" is (pending|running): ", words)]

    def settle(self) -> None:
        """Waits until no operation is under way."""

        def settled() -> bool:
            with self.database.read() as connection:
                return not operations.unfinished(connection, "volumes")

        wait_for(settled, "the end of all operations", SECONDS)

    def outcome(self, scene: Scene, asked: tuple[Asked, Asked]) -> Model:
        """Which of the outcomes lies there; looked at once more when the worker did something by itself meanwhile."""
        for _ in range(5):
            self.settle()
            try:
                return check_one_of(self, self.reader, outcomes(self.model, scene, asked), asked)
            except (AssertionError, FileNotFoundError) as error:
                last = error
                time.sleep(0.5)
        raise last


def _action(name: str, *kept: str) -> Call:
    def make(given: dict[str, Any]) -> tuple[str, str, Any]:
        return "POST", f"/volumes/{given['volume_id']}/action", {name: {NAMES.get(key, key): given[key] for key in kept}}

    return make


def _new(noun: str) -> Call:
    def make(given: dict[str, Any]) -> tuple[str, str, Any]:
        body = {**given["wanted"], **{key: value for key, value in given.items() if key != "wanted"}}
        return "POST", f"/{noun}s", {noun: body}

    return make


NAMES = {"newer": "newer_snapshots"}
CALLS: dict[str, Call] = {
    "create_volume": _new("volume"),
    "create_snapshot": _new("snapshot"),
    "create_attachment": _new("attachment"),
    "delete_snapshot": lambda given: ("DELETE", f"/snapshots/{given['snapshot_id']}", None),
    "delete_volume": lambda given: ("DELETE", f"/volumes/{given['volume_id']}?cascade={given['cascade']}", None),
    "extend_volume": _action("os-extend", "new_size"),
    "revert_volume": _action("revert", "snapshot_id", "newer"),
}
OVER_REST = (
    "snapshot",
    "delete the older",
    "revert, keep",
    "extend",
    "clone",
    "delete, cascade",
    "attach",
)


@pytest.fixture(scope="module")
def services() -> Iterator[list[Served]]:
    """The services that run, if any do; a test that fails leaves none, so that the next one begins anew."""
    running: list[Served] = []
    yield running
    for each in running:
        each.end()


@pytest.fixture
def served(services: list[Served]) -> Iterator[Served]:
    if not services:
        services.append(Served())
    yield services[0]
    if services[0].broken:
        services.pop().end()


@pytest.mark.parametrize("pair", itertools.combinations_with_replacement(OVER_REST, 2), ids=" + ".join)
def test_two_requests_at_the_same_moment(served: Served, pair: tuple[str, str]) -> None:
    served.broken = True  # until the end of this test is reached
    scene = build_small(served.ask, served, served.reader, served.model)
    together = threading.Barrier(2)

    def send(who: int) -> Asked:
        request = REQUESTS[pair[who]]
        parameters = request.parameters(scene, f"number {who}")
        together.wait(SECONDS)
        return served.send(pair[who], request.method, **parameters)

    with ThreadPoolExecutor(2) as people:
        first, second = people.map(send, range(2))
    served.model = served.outcome(scene, (first, second))
    served.broken = False

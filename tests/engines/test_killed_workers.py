"""Worker processes over one database are killed at random: nothing runs twice at a time, nothing is lost."""

import multiprocessing
import os
import random
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from sqlalchemy import func, select

from stillframe.db import quotas
from stillframe.db.engine import Database
from stillframe.db.tables import operations
from stillframe.journal import record, typed
from stillframe.journal.record import Request
from tests.support import killed_workers
from tests.support.killed_workers import STEPS

SEED = int(os.environ["STILLFRAME_SEED"])
OPERATIONS = 40
VOLUMES = ("volume:a", "volume:b", "volume:c", "volume:d")
WORKERS = 3
KILLS = 6
SECONDS = 200
COPIES = multiprocessing.get_context("forkserver")  # what ``tests.support.service`` has it read is there


def submit(url: str, chance: random.Random, ids: list[str]) -> None:
    """Operations on one or two volumes each, half of the second ones only read."""
    database = Database(url)
    for number in range(OPERATIONS // 2):
        names = chance.sample(VOLUMES, chance.randint(1, 2))
        alone, reads = (names[:1], names[1:]) if chance.random() < 0.5 else (names, [])
        plan = typed.numbered([each() for each in STEPS])
        intent = killed_workers.Work(alone=tuple(alone), shared=tuple(reads))
        request = Request("volumes", "work", intent, plan, alone, "r", shared=reads, project_id=f"project-{number % 3}")
        with database.write() as connection:
            ids.append(record.submit(connection, request))
    database.close()


class Site:
    """Workers that come and go."""

    def __init__(self, url: str, directory: Path) -> None:
        self._url = url
        self._directory = directory
        self._begun = 0
        self.workers: list[BaseProcess] = []

    def begin(self) -> None:
        arguments = (self._url, self._directory, self._begun)
        process = COPIES.Process(target=killed_workers.work, args=arguments, daemon=True)
        process.start()
        self._begun += 1
        self.workers.append(process)

    def wait_for_all(self) -> None:
        until = time.monotonic() + SECONDS
        while not all((self._directory / f"ready-{number}").exists() for number in range(self._begun)):
            assert time.monotonic() < until, "a worker does not come up"
            time.sleep(0.01)

    def kill(self, number: int) -> None:
        process = self.workers.pop(number)
        process.kill()
        process.join()  # until then it can be seen, and its operations are its own

    def unfinished(self, database: Database) -> int:
        with database.read() as connection:
            query = select(func.count()).where(operations.c.state.not_in(("done", "undone", "parked")))
            return int(connection.execute(query).scalar_one())


def test_nothing_runs_twice_at_a_time_and_nothing_is_lost(url: str, tmp_path: Path) -> None:
    chance, ids = random.Random(SEED), list[str]()
    database, site = Database(url), Site(url, tmp_path)
    submitters = [threading.Thread(target=submit, args=(url, random.Random(SEED + each), ids)) for each in range(2)]
    try:
        for _ in range(WORKERS):
            site.begin()
        site.wait_for_all()
        for thread in submitters:
            thread.start()
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.02, 0.3))
            site.kill(chance.randrange(len(site.workers)))
            site.begin()
        for thread in submitters:
            thread.join()
        until = time.monotonic() + SECONDS
        while site.unfinished(database):
            assert time.monotonic() < until, f"{site.unfinished(database)} operations do not end"
            assert all(process.is_alive() for process in site.workers)
            time.sleep(0.05)
    finally:
        while site.workers:
            site.kill(0)
        database.close()
    check(url, tmp_path, ids)


def check(url: str, directory: Path, ids: list[str]) -> None:
    broken = directory / "broken"
    assert not broken.exists(), broken.read_text()
    database = Database(url)
    with database.read() as connection:
        found = connection.execute(select(operations.c.id, operations.c.state)).all()
        settled = [quotas.limits(connection, each) for each in ids]
    database.close()
    assert sorted(tuple(each) for each in found) == sorted((each, "done") for each in ids)
    assert settled == [{"done": 1}] * OPERATIONS
    assert all((directory / f"{each}.{step.verb}").exists() for each in ids for step in STEPS)

"""Fixtures every room of the tests shares, and the seed of all that is random, which STILLFRAME_SEED repeats."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import core

from tests.support.guest.domain import GuestOptions
from tests.support.lab import Lab, open_lab
from tests.support.service import Command

SEED = "STILLFRAME_SEED"
LONG_AND_LATE = ("test_every_moment.py", "test_tutorial.py", "test_while_a_merge_runs.py")


def pytest_configure() -> None:
    """Once, in the first process: those that run tests beside each other inherit it."""
    os.environ[SEED] = os.environ.get(SEED) or str(_seed_of_this_code())
    # What --hypothesis-seed sets.
    core.global_force_seed = int(os.environ[SEED])  # type: ignore[assignment]


def _seed_of_this_code() -> int:
    """The same code is tried the same way each time: one revision has one result, every change of it brings new ways."""
    found = hashlib.sha256()
    for path in sorted((Path(__file__).parents[1] / "src").rglob("*.py")):
        found.update(path.read_bytes())
    return int.from_bytes(found.digest()[:4], "big")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What would come last and takes a minute begins first: nobody else has anything to do at the end."""
    items.sort(key=lambda item: item.path.name not in LONG_AND_LATE)


def pytest_report_header() -> str:
    return f"{SEED}={os.environ[SEED]} (set it to repeat what was tried: any change of src tries something else)"


# Services are started many hundred times; without their bytecode each start costs a second more.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(autouse=True, scope="module")
def umask() -> Iterator[None]:
    """What a service does to its whole process when it starts in a test's is undone after the module."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Running services and one running guest with three volumes, shared by the tests of a module."""
    made = open_lab(tmp_path_factory.mktemp("lab"))
    try:
        made.add_guest(3, GuestOptions(interval_us=100_000))  # the counters say whether disks are of one instant
        yield made
    finally:
        made.clear()


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Running services without a guest."""
    made = open_lab(tmp_path_factory.mktemp("services"), begin=Command)
    try:
        yield made
    finally:
        made.clear()

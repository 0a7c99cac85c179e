"""The driver contract, on every kind of share: see ``tests/support/driver_suite``."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillframe.volumes.storage.drivers import native
from stillframe.volumes.storage.drivers.contract import CHAINS
from stillframe.volumes.storage.drivers.shares_config import Export
from tests.support.driver_suite import contents, full, hostile, safety
from tests.support.driver_suite.bench import MIB, WHEN_SMALL, Bench, checks_for, clean, open_bench
from tests.support.driver_suite.outage import OUTAGES, Server
from tests.support.gluster import Gluster, gluster
from tests.support.iscsi import reflink_place
from tests.support.oracle_reader import Reader

MODULES = (contents, full, hostile, safety)  # importing them is what fills the tables of checks
SMALL = 96 * MIB
CHAINED, ALONE = checks_for(CHAINS), checks_for(native.CAPABILITIES)


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    made = Reader()
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gluster]:
    with gluster(tmp_path_factory.mktemp("gluster")) as made:
        made.path.chmod(0o2770)
        yield made


@pytest.fixture(scope="module")
def on_glusterfs(server: Gluster, tmp_path_factory: pytest.TempPathFactory, reader: Reader) -> Bench:
    export = Export(server.export, server.options)
    return open_bench("glusterfs", server.path, export, tmp_path_factory.mktemp("scratch"), reader)


@pytest.fixture(params=["local", "glusterfs"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, reader: Reader) -> Bench:
    if request.param == "glusterfs":
        found: Bench = request.getfixturevalue("on_glusterfs")
        return found
    place = tmp_path_factory.mktemp("local") / "share"
    return open_bench("local", place, Export(""), tmp_path_factory.mktemp("scratch"), reader)


@pytest.fixture(scope="module")
def on_xfs(tmp_path_factory: pytest.TempPathFactory, reader: Reader) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("xfs")
    with reflink_place(directory) as point:
        yield open_bench("iscsi", point / "share", Export(""), tmp_path_factory.mktemp("scratch"), reader)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, reader: Reader) -> Iterator[Bench]:
    """A file system of its own, ext4 in a file."""
    directory = tmp_path_factory.mktemp("small")
    image, point = directory / "image", directory / "point"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(SMALL)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True)
    try:
        scratch = directory / "scratch"
        scratch.mkdir()
        yield open_bench("local", point / "share", Export(""), scratch, reader)
    finally:
        subprocess.run(["umount", str(point)], check=True)


@pytest.mark.parametrize("check", CHAINED)
def test_the_driver_contract_holds(bench: Bench, check: str) -> None:
    try:
        CHAINED[check](bench)
    finally:
        clean(bench.scratch)


@pytest.mark.parametrize("check", ALONE)
def test_the_driver_contract_holds_with_snapshots_of_its_own(on_xfs: Bench, check: str) -> None:
    try:
        ALONE[check](on_xfs)
    finally:
        clean(on_xfs.scratch)


@pytest.mark.parametrize("check", WHEN_SMALL)
def test_the_driver_contract_holds_on_a_full_share(small: Bench, check: str) -> None:
    try:
        WHEN_SMALL[check](small)
    finally:
        clean(small.scratch)


@pytest.mark.parametrize("check", OUTAGES)
def test_a_brick_may_stop_in_the_middle_of_an_operation(server: Gluster, on_glusterfs: Bench, check: str) -> None:
    try:
        OUTAGES[check](on_glusterfs, Server(server.stop_brick, server.start_brick))
    finally:
        clean(on_glusterfs.scratch)


def test_the_suite_runs_as_a_program(tmp_path: Path) -> None:
    """As it does inside the machine that has an NFS mount."""
    import sys

    command = [sys.executable, "-m", "tests.support.driver_suite", "local", str(tmp_path / "share")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert f"{len(CHAINED)} of {len(CHAINED)} checks passed" in done.stdout

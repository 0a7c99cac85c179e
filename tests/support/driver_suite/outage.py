"""A share whose server goes away in the middle of an operation: nothing counts as missing, and everything is right when it is
back."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.errors import ShareUnavailable
from stillframe.host import workdir
from stillframe.host.copies import Source
from tests.support.driver_suite.bench import MIB, Bench, Volume, expect_all_unavailable
from tests.support.oracle import BLOCK, GIB

MUCH = 48 * MIB // BLOCK
BEGUN = 4 * MIB
_SECONDS = 120


@dataclass(frozen=True)
class Server:
    """How the share's server is stopped, and started again."""

    stop: Callable[[], None]
    start: Callable[[], None]


OutageCheck = Callable[[Bench, Server], None]
OUTAGES: dict[str, OutageCheck] = {}


def outage(check: OutageCheck) -> OutageCheck:
    OUTAGES[check.__name__] = check
    return check


def _interrupted(bench: Bench, server: Server, watched: Path, work: Callable[[], object]) -> Exception | None:
    """Does the work, and stops the server when 4 MiB of the watched file are written. Returns how the work ended; the
    server is away then."""
    ended: list[Exception | None] = []

    def run() -> None:
        try:
            work()
            ended.append(None)
        except Exception as error:
            ended.append(error)

    before = _written(watched)
    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + _SECONDS
    while _written(watched) < before + BEGUN and thread.is_alive():
        assert time.monotonic() < deadline, f"nothing was written to {watched}"
        time.sleep(0.005)
    server.stop()
    thread.join(_SECONDS)
    assert not thread.is_alive(), "the work hangs"
    return ended[0]


def _written(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def _check_refused(error: Exception | None) -> None:
    assert isinstance(error, ShareUnavailable), f"the work ended with {type(error).__name__}: {error}"


@outage
def a_copy_is_unavailable_and_is_made_when_the_server_is_back(bench: Bench, server: Server) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, MUCH, 5), (6, MUCH, 7))
        token, image = volume.token(), Image(volume.new_name(), "qcow2", GIB)
        temporary = volume.path_on_the_way(token)

        def copy() -> None:
            volume.share.copy(volume.id, Source(volume.base, "qcow2", 0), image, token)

        error = _interrupted(bench, server, temporary, copy)
        server.start()
        _check_refused(error)
        copy()
        volume.known(image.name, volume.disks[volume.base])
        volume.check()


@outage
def a_commit_is_unavailable_and_is_ended_when_the_server_is_back(bench: Bench, server: Server) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, 4, 5))
        middle = volume.overlay(volume.base, (0, MUCH, 6), (6, MUCH, 7))
        top = volume.overlay(middle, (2, 1, 8))
        error = _interrupted(
            bench, server, volume.path(volume.base), lambda: volume.share.commit(volume.id, middle, volume.base)
        )
        server.start()
        _check_refused(error)
        for name in (middle, top):
            volume.reads(volume.path(name), "qcow2", volume.disks[name])
        volume.share.repair(volume.id, volume.base, "qcow2")
        volume.share.commit(volume.id, middle, volume.base)
        volume.disks[volume.base] = volume.disks[middle]
        volume.check()


@outage
def a_pull_is_unavailable_reads_right_at_once_and_is_ended_when_the_server_is_back(bench: Bench, server: Server) -> None:
    with bench.volume() as volume:
        volume.write(volume.base, (0, MUCH, 6), (6, MUCH, 7))
        top = volume.overlay(volume.base, (2, 1, 8))
        error = _interrupted(bench, server, volume.path(top), lambda: volume.share.pull(volume.id, top, None, None))
        server.start()
        _check_refused(error)
        volume.reads(volume.path(top), "qcow2", volume.disks[top])
        volume.share.pull(volume.id, top, None, None)
        assert volume.layers(top) == [top]
        volume.share.repair(volume.id, top, "qcow2")
        volume.check()


@outage
def every_question_is_unavailable_while_the_server_is_away(bench: Bench, server: Server) -> None:
    with bench.volume() as volume:
        volume.overlay(volume.base, (0, 1, 5))
        server.stop()
        try:
            _wait_until_seen(volume)
            expect_all_unavailable(bench, volume.share, volume)
        finally:
            server.start()
        volume.check()


def _wait_until_seen(volume: Volume) -> None:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        try:
            volume.share.probe()
        except ShareUnavailable:
            return
        time.sleep(0.02)
    raise AssertionError("the probe does not see that the server is away")


@outage
def files_come_and_go_while_the_server_does(bench: Bench, server: Server) -> None:
    """Small verbs one after the other; the server goes away at some moment. Each is done or not done at all."""
    with bench.volume() as volume:
        volume.write(volume.base, (0, 4, 5))
        stopper = threading.Timer(0.3, server.stop)
        stopper.start()
        made, token = volume.new_name(), volume.token()
        image = Image(made, "qcow2", GIB, volume.base, "qcow2")
        try:
            _until_unavailable(volume, image, token)
        finally:
            stopper.join()
            server.start()
        volume.share.create_overlay(volume.id, image, token)
        volume.known(made, volume.disks[volume.base])
        volume.share.write_document(names.info_name(volume.id), {"active": made})
        volume.check()
        left = f".trash.{made}"
        if left in bench.names():  # the server went when it had its new name: it is swept when it is old
            (bench.path / workdir.NAME / left).unlink()


def _until_unavailable(volume: Volume, image: Image, token: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        try:
            volume.share.create_overlay(volume.id, image, token)
            assert volume.share.image(image.name, "qcow2") == image
            assert volume.share.dependants(volume.base) == [image.name]
            volume.share.write_document(names.info_name(volume.id), {"active": image.name})
            volume.share.remove(volume.id, image.name)
        except ShareUnavailable:
            return
    raise AssertionError("no verb saw that the server is away")

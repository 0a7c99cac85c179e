"""Volumes that are given out through targets: to whom, is what the rows of attachments say. The target daemon keeps nothing
over a restart, so what it has is compared with the rows at start and on the timer, and made again."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stillframe.db import attachments, operations, volumes
from stillframe.db.rows import AttachmentRow, VolumeRow
from stillframe.errors import StillframeError
from stillframe.volumes.storage.backends import Pool
from stillframe.volumes.storage.drivers.targets import Held, Targets, initiator_of
from stillframe.volumes.worker.context import WorkerContext

_LOG = logging.getLogger(__name__)
_turn = threading.RLock()  # rows are read and the target made in one turn: the last to have it leaves what the rows say


def held(attachment: AttachmentRow) -> Held:
    """Returns whom an attachment that has a connector gives its volume out to. Raises BadRequest."""
    return Held(attachment["id"], initiator_of(attachment["connector"]))


def settle(worker: WorkerContext, volume_id: str, active_file: str | None = None) -> None:
    """Gives the volume out to whom its attachment names, or to nobody. ``active_file`` is what the row will name, where that is
    another one. Does nothing for a volume whose file a hypervisor opens itself. May be repeated. Raises TargetUnavailable,
    ShareUnavailable."""
    with _turn:
        with worker.database.read() as connection:
            volume = volumes.get(connection, volume_id, None)
            rows = attachments.of_volumes(connection, [volume_id])[volume_id]
        if volume is None:
            return
        pool = worker.backends.pool(volume)
        if pool.targets is None:
            return
        given = [row for row in rows if row["connector"]]
        if given:
            pool.targets.give(volume_id, *_file(pool, active_file or volume["active_file"]), held(given[0]))
        else:
            pool.targets.withdraw(volume_id)


def _file(pool: Pool, name: str) -> tuple[Path, int]:
    share = pool.share()
    return share.path / name, share.image(name, pool.format).size


def withdraw(worker: WorkerContext, volume_id: str) -> None:
    """As ``settle`` after an attachment has ended. A daemon that does not answer gives out nothing, or is asked again on the
    timer."""
    try:
        settle(worker, volume_id)
    except StillframeError as error:
        _LOG.warning("volume %s is released; its target is removed later: %s", volume_id, error.message)


def sessions(worker: WorkerContext, volume_id: str) -> tuple[str, ...]:
    """Returns the initiators that are connected to the volume, in words. Raises TargetUnavailable."""
    targets = _targets(worker, volume_id)
    return targets.sessions(volume_id) if targets is not None else ()


def hold_back(worker: WorkerContext, volume_id: str) -> None:
    """Gives the volume out to nobody, for an operation that has it alone. May be repeated. Raises TargetUnavailable."""
    targets = _targets(worker, volume_id)
    if targets is not None:
        targets.withdraw(volume_id)


def _targets(worker: WorkerContext, volume_id: str) -> Targets | None:
    with worker.database.read() as connection:
        volume = volumes.get(connection, volume_id, None)
    return worker.backends.pool(volume).targets if volume is not None else None


@contextmanager
def held_back(worker: WorkerContext, volume: VolumeRow) -> Iterator[None]:
    """Within the block the volume is given out to nobody, so that the daemon does not count as a user of its files; afterwards
    to whom the rows say then. For a volume that nobody is connected to."""
    targets = worker.backends.pool(volume).targets
    if targets is None:
        yield
        return
    with _turn:
        targets.withdraw(volume["id"])
        try:
            yield
        finally:
            withdraw(worker, volume["id"])


def look(worker: WorkerContext) -> None:
    """One round over all targets. What fails is tried again in the next."""
    for pool in worker.backends.pools:
        if pool.targets is None:
            continue
        try:
            for volume_id in _differing(worker, pool):
                _again(worker, volume_id)
        except (OSError, StillframeError) as error:
            _LOG.warning("the targets of backend %s are left as they are for now: %s", pool.backend, error)


def _again(worker: WorkerContext, volume_id: str) -> None:
    try:
        _LOG.info("the target of volume %s is made, changed or removed, as its attachments say", volume_id)
        settle(worker, volume_id)
    except (OSError, StillframeError) as error:
        _LOG.warning("the target of volume %s is left as it is for now: %s", volume_id, error)


def _differing(worker: WorkerContext, pool: Pool) -> list[str]:
    """Returns the volumes whose targets are not what the rows say. Those that an operation changes are left to it. A target
    that no attachment asks for is kept while somebody is connected: who that is, a rebuilt database does not know."""
    assert pool.targets is not None
    given = pool.targets.given(pool.share().path)
    with worker.database.read() as connection:
        rows = {row["id"]: row for row in volumes.on_share(connection, pool.export.export)}
        wanted = attachments.of_volumes(connection, list(rows))
        busy = {row["resource"] for row in operations.alone_on_resources(connection, [f"volume:{each}" for each in rows])}
    idle = [volume_id for volume_id, target in given.items() if volume_id in rows and not target.sessions]
    found = [volume_id for volume_id in idle if not _connected(wanted[volume_id])]
    for volume_id, row in rows.items():
        connected = _connected(wanted[volume_id])
        if connected and not pool.targets.is_as_wanted(
            given.get(volume_id), *_file(pool, row["active_file"]), held(connected[0])
        ):
            found.append(volume_id)
    return [volume_id for volume_id in found if f"volume:{volume_id}" not in busy]


def _connected(rows: list[AttachmentRow]) -> list[AttachmentRow]:
    return [row for row in rows if row["connector"]]

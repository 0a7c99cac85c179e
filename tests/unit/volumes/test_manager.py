"""The worker's side of block storage's API: what is not there is looked for twice, and then named."""

import errno
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stillframe.db.engine import Database
from stillframe.errors import AccessRefused, Busy, ChainConflict, StillframeError
from stillframe.journal import record
from stillframe.journal.typed import Intent
from stillframe.volumes.manager import Manager, answered_by
from stillframe.volumes.rpcapi import VolumesWorker
from stillframe.volumes.worker.context import WorkerContext
from tests.unit.builders import VOLUME

GONE = FileNotFoundError(errno.ENOENT, "No such file or directory", "/srv/canary/volume-1")
Ask = Callable[..., Any]


class Methods:
    """One method that raises what it is told to, one after the other, and then answers."""

    def __init__(self, errors: list[Exception]) -> None:
        self.errors = errors

    def __call__(self, _worker: Any, _context: Any, /, **_parameters: Any) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "answered"


@pytest.fixture
def ask(database: Database, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Exception]], Ask]:
    def made(errors: list[Exception]) -> Ask:
        monkeypatch.setattr(Manager, "show_chain", answered_by(Methods(errors)))
        worker = cast("WorkerContext", SimpleNamespace(database=database))
        return Manager(worker, lambda: None).methods()["show_chain"]

    return made


def test_a_file_that_was_gone_for_a_moment_is_looked_for_again(ask: Callable[[list[Exception]], Ask]) -> None:
    assert ask([GONE])(None, volume_id=VOLUME) == "answered"


@pytest.mark.parametrize(
    ("errors", "kind", "told"),
    [
        ([GONE, GONE], ChainConflict, "volume-1 is not there"),
        ([PermissionError(errno.EACCES, "Permission denied", "/srv/canary/v")], AccessRefused, "v: Permission denied"),
    ],
)
def test_what_is_not_there_or_not_ours_is_named(
    ask: Callable[[list[Exception]], Ask], errors: list[Exception], kind: type[StillframeError], told: str
) -> None:
    with pytest.raises(kind, match=told) as found:
        ask(errors)(None, volume_id=VOLUME)
    assert "canary" not in found.value.message


def test_while_an_operation_changes_the_files_the_operation_is_named(
    ask: Callable[[list[Exception]], Ask], database: Database
) -> None:
    with database.write() as connection:
        record.submit(connection, record.Request("volumes", "extend_volume", Intent(), [], [f"volume:{VOLUME}"], "req-1"))
    with pytest.raises(Busy, match="extend_volume"):
        ask([GONE])(None, volume_id=VOLUME)


def test_everything_an_api_may_ask_is_answered_and_nothing_else() -> None:
    methods = Manager(cast("WorkerContext", None), lambda: None).methods()
    assert set(methods) == {name for name in vars(VolumesWorker) if not name.startswith("_")}
    assert all(callable(method) for method in methods.values())

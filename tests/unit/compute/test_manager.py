"""The worker's side of compute's API: what the system refuses is told as an error a person is meant to read."""

import errno
from typing import Any, cast

import pytest

from stillframe.compute.manager import Manager, answered_by
from stillframe.compute.rpcapi import ComputeWorker
from stillframe.compute.worker.context import WorkerContext
from stillframe.errors import AccessRefused


def test_what_the_system_refuses_is_an_error_with_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_worker: Any, _context: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/srv/canary/volume-1")

    woken: list[bool] = []
    monkeypatch.setattr(Manager, "show_server", answered_by(refuse))
    with pytest.raises(AccessRefused, match="volume-1: Permission denied") as told:
        Manager(cast("WorkerContext", None), lambda: woken.append(True)).methods()["show_server"](None)
    assert "canary" not in told.value.message
    assert woken == []


def test_everything_an_api_may_ask_is_answered_and_nothing_else() -> None:
    methods = Manager(cast("WorkerContext", None), lambda: None).methods()
    assert set(methods) == {name for name in vars(ComputeWorker) if not name.startswith("_")}
    assert all(callable(method) for method in methods.values())

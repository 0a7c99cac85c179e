"""A volume that a target gives out, and the server that has it."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from stillframe.errors import Busy, Conflict
from stillframe.journal.operation import NotYet
from stillframe.volumes.operations.executors import exported
from stillframe.volumes.operations.executors.exported import CheckNoSet, HoldBack, TellServer
from tests.unit.builders import SERVER, SET, VOLUME

OPERATION = cast("Any", SimpleNamespace(intent=SimpleNamespace(volume_id=VOLUME)))


class Compute:
    def __init__(self, server: dict[str, Any] | None, refuses: Exception | None = None) -> None:
        self.server, self.refuses = server, refuses
        self.sizes: list[int] = []

    def server_of(self, _volume_id: str) -> dict[str, Any] | None:
        return self.server

    def resize(self, _volume_id: str, size: int) -> None:
        if self.refuses:
            raise self.refuses
        self.sizes.append(size)


def worker(server: dict[str, Any] | None, refuses: Exception | None = None) -> Any:
    return SimpleNamespace(compute=Compute(server, refuses))


def server(**more: Any) -> dict[str, Any]:
    return {"id": SERVER, "active": True, "file": None, "state": "running", "refusal": None, "set_id": None, **more}


@pytest.mark.parametrize("args", [CheckNoSet(), HoldBack()])
def test_nothing_is_changed_while_a_set_takes_the_volume(args: Any) -> None:
    verb = {**exported.GROW, **exported.FOLLOW}[args.verb]
    with pytest.raises(Busy, match=f"being taken into assisted snapshot {SET} of server {SERVER}"):
        verb.do(worker(server(set_id=SET)), OPERATION, args)


@pytest.mark.parametrize("found", [None, server(), {"id": SERVER, "active": True}])
def test_a_volume_that_no_set_takes_may_grow(found: dict[str, Any] | None) -> None:
    assert exported.GROW["check_no_set"].do(worker(found), OPERATION, CheckNoSet()) == {}


def test_a_guest_is_told_of_its_growth_when_its_server_is_free() -> None:
    """However long that takes: past no return there is nothing else to do. Another refusal stays one."""
    args, tell = TellServer(name="x", format="raw", size=7), exported.GROW["tell_server"]
    with pytest.raises(NotYet) as waits:
        tell.do(worker(server(), Busy("a set is running")), OPERATION, args)
    assert waits.value.why is not None and waits.value.why.message == "a set is running"
    with pytest.raises(Conflict):
        tell.do(worker(server(), Conflict("it has more already")), OPERATION, args)
    free = worker(server())
    tell.do(free, OPERATION, args)
    assert free.compute.sizes == [7]

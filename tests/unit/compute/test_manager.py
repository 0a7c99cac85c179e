"""The worker's side of compute's API: what the system refuses is told as an error a person is meant to read."""

import errno
from typing import Any, cast

import pytest

from stillframe.compute.manager import Manager
from stillframe.compute.world import World
from stillframe.errors import AccessRefused


def test_what_the_system_refuses_is_an_error_with_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_world: Any, _context: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/srv/canary/volume-1")

    woken: list[bool] = []
    monkeypatch.setattr("stillframe.compute.using.METHODS", {"ask": refuse})
    with pytest.raises(AccessRefused, match="volume-1: Permission denied") as told:
        Manager(cast("World", None), lambda: woken.append(True)).methods()["ask"](None)
    assert "canary" not in told.value.message
    assert woken == []

"""The host's own address."""

import socket
from typing import Any

import pytest

from stillframe.host import addresses


class Probe:
    """A socket on a host that has routes to some addresses, and its own there."""

    def __init__(self, routes: dict[str, str]) -> None:
        self._routes = routes
        self._own = ""

    def __enter__(self) -> "Probe":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def connect(self, where: tuple[str, int]) -> None:
        if where[0] not in self._routes:
            raise OSError(101, "Network is unreachable")
        self._own = self._routes[where[0]]

    def getsockname(self) -> tuple[str, int]:
        return self._own, 40000


FOUR = {"192.0.2.1": "192.0.2.20", "127.0.0.1": "127.0.0.1"}
SIX = {"2001:db8::1": "2001:db8::20", "::1": "::1"}


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        (FOUR, "192.0.2.20"),
        (SIX | FOUR, "192.0.2.20"),
        (SIX, "2001:db8::20"),
        (SIX | {"127.0.0.1": "127.0.0.1"}, "2001:db8::20"),
        ({"127.0.0.1": "127.0.0.1", "::1": "::1"}, "127.0.0.1"),
        ({"::1": "::1"}, "::1"),
        ({}, "127.0.0.1"),
    ],
)
def test_the_address_is_that_of_the_default_route(
    monkeypatch: pytest.MonkeyPatch, routes: dict[str, str], expected: str
) -> None:
    kinds: set[Any] = set()

    def make(_family: Any, kind: Any) -> Probe:
        kinds.add(kind)
        return Probe(routes)

    monkeypatch.setattr(socket, "socket", make)
    assert addresses.own() == expected
    assert kinds == {socket.SOCK_DGRAM}  # nothing is sent


def test_a_host_without_one_of_the_families_has_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(family: Any, _kind: Any) -> Probe:
        if family == socket.AF_INET:
            raise OSError(97, "Address family not supported by protocol")
        return Probe(SIX)

    monkeypatch.setattr(socket, "socket", make)
    assert addresses.own() == "2001:db8::20"

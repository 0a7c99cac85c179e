"""The api to the worker, with a fake connection in the socket's place."""

import errno
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import pytest

from stillframe.context import Context
from stillframe.errors import Conflict, ServiceUnavailable, StillframeError
from stillframe.rpc import bus
from stillframe.rpc.bus import InProcess, Proxy, SocketBus, SocketServer, table
from tests.unit.builders import context

PATH = Path("/nowhere/volumes.sock")


class Connection:
    """Answers every question with what ``answer`` makes of it; None is silence."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self._answer = answer
        self._said: Any = None

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def send_bytes(self, raw: bytes) -> None:
        self._said = self._answer(json.loads(raw))

    def poll(self, _seconds: float) -> bool:
        return self._said is not None

    def recv_bytes(self, limit: int) -> bytes:
        assert limit == bus.MESSAGE_LIMIT
        if isinstance(self._said, Exception):
            raise self._said
        return json.dumps(self._said).encode()


@pytest.fixture
def server() -> SocketServer:
    """The worker's side without its socket."""

    def refuse(_context: object) -> None:
        raise Conflict("busy", operation_id="o")

    def break_(_context: object) -> None:
        raise RuntimeError("the canary")

    made = object.__new__(SocketServer)
    made._methods = {
        "add": lambda who, first, second: [first + second, who.project_id, list(who.roles)],
        "refuse": refuse,
        "break": break_,
    }
    return made


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, server: SocketServer) -> SocketBus:
    monkeypatch.setattr(bus, "Client", lambda _path, _family: Connection(server._answer))
    return SocketBus("volumes", PATH)


def test_in_one_process_a_call_is_a_call() -> None:
    inside = InProcess({"add": lambda who, first, second: (who.project_id, first + second)})
    assert inside.call("add", context(), first=1, second=2) == ("demo", 3)


class Adder(Protocol):
    def add(self, context: Context, /, *, first: int, second: int) -> int: ...


class Worker:
    secret = "canary"

    def add(self, context: Context, /, *, first: int, second: int) -> int:
        return first + second

    def more(self) -> None: ...


def test_a_worker_answers_what_its_protocol_names_and_nothing_else() -> None:
    methods = table(Adder, Worker())
    assert list(methods) == ["add"]
    assert cast("Adder", Proxy(InProcess(methods))).add(context(), first=1, second=2) == 3


def test_a_proxy_asks_over_the_socket_as_it_does_in_one_process(api: SocketBus) -> None:
    assert Proxy(api).add(context("admin"), first=1, second=2) == [3, "demo", ["admin"]]


def test_over_the_socket_parameters_the_user_and_the_answer_arrive(api: SocketBus) -> None:
    assert api.call("add", context("admin"), first=1, second=2) == [3, "demo", ["admin"]]


def test_an_error_of_the_worker_is_the_same_error_at_the_api(api: SocketBus) -> None:
    with pytest.raises(Conflict, match="busy") as told:
        api.call("refuse", context())
    assert told.value.details == {"operation_id": "o"}


@pytest.mark.parametrize("method", ["break", "unknown"])
def test_an_error_of_the_program_is_told_without_its_words(api: SocketBus, method: str) -> None:
    with pytest.raises(StillframeError) as told:
        api.call(method, context())
    assert told.value.status == 500
    assert "canary" not in told.value.message


@pytest.mark.parametrize("answer", [None, EOFError(), OSError("too long"), ConnectionResetError()])
def test_a_worker_that_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    monkeypatch.setattr(bus, "Client", lambda _path, _family: Connection(lambda _message: answer))
    with pytest.raises(ServiceUnavailable, match=r"volumes worker (did|does) not answer"):
        SocketBus("volumes", PATH, 0.0).call("add", context())


def test_a_worker_that_does_not_run_is_unavailable() -> None:
    with pytest.raises(ServiceUnavailable, match="the volumes worker does not answer"):
        SocketBus("volumes", PATH).call("add", context())


class Listener:
    """Has no descriptor for the first who come, and is closed after the last."""

    def __init__(self, server: SocketServer, refused: int) -> None:
        self._server = server
        self._refused = refused
        self._served = False

    def accept(self) -> Connection:
        if self._refused:
            self._refused -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        if self._served:
            self._server.close()
            raise OSError("listener is closed")
        self._served = True
        return Connection(lambda _message: None)

    def close(self) -> None:
        pass


def test_a_call_that_cannot_be_taken_ends_no_worker(server: SocketServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus, "PAUSE_SECONDS", 0.0)
    served: list[object] = []
    monkeypatch.setattr(SocketServer, "_serve", lambda _self, connection: served.append(connection))
    server._closed, before = threading.Event(), set(threading.enumerate())
    server._listener = Listener(server, refused=3)  # type: ignore[assignment]
    server._accept()
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
    assert len(served) == 1

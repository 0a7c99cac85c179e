"""The HTTP server alone, over real sockets, with deadlines short enough to wait for."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from stillframe.errors import BadConfiguration
from stillframe.service_client.unix import UnixAdapter
from stillframe.web import server
from stillframe.web.connections import Channel, Connections, Limits
from stillframe.web.server import Server
from tests.support import slow_clients
from tests.unit.web.test_parser import SHAPES

Connect = Callable[..., socket.socket]
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
LONG = 3 << 20  # bytes of an answer: more than the kernel keeps for a client that does not read


class Application:
    """Answers what the path asks for, and knows how many it is answering."""

    def __init__(self) -> None:
        self.held = threading.Event()
        self.go_on = threading.Event()
        self.seen: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        content = environ["wsgi.input"].read()
        self.seen.append(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/hold":
            self.held.set()
            self.go_on.wait(30)
        answer = b"x" * LONG if environ["PATH_INFO"] == "/long" else content + environ["REMOTE_ADDR"].encode()
        start_response("200 OK", [("Content-Length", str(len(answer))), ("Content-Type", "text/plain")])
        return [answer]


@pytest.fixture
def connected() -> Iterator[Connect]:
    """Opens connections and closes them at the end."""
    made: list[socket.socket] = []

    def connect(port: int, address: str, window: int = 0) -> socket.socket:
        made.append(slow_clients.connected(port, address, window))
        return made[-1]

    yield connect
    for one in made:
        one.close()


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def started(application: Application) -> Iterator[Callable[[Limits], Server]]:
    made: list[Server] = []

    def start(limits: Limits) -> Server:
        made.append(Server(application, server.tcp("127.0.0.1", 0), limits))
        made[-1].start()
        return made[-1]

    yield start
    application.go_on.set()
    for each in made:
        each.stop()


def ask(port: int, path: str = "/", content: bytes = b"") -> requests.Response:
    return requests.post(f"http://127.0.0.1:{port}{path}", data=content, timeout=30)


def whole(client: socket.socket) -> bytes:
    with client.makefile("rb") as file:
        return file.read()


def answer_of(client: socket.socket) -> bytes:
    """Sends a request and returns its whole answer; the connection stays."""
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    found = b""
    while not found.partition(b"\r\n\r\n")[2]:
        piece = client.recv(1000)
        assert piece, found
        found += piece
    return found


def is_closed(client: socket.socket) -> bool:
    """Waits for the server's end of a connection; what was sent before is read."""
    client.settimeout(30)
    try:
        while client.recv(1 << 16):
            continue
    except ConnectionResetError:
        return True
    return True


@pytest.mark.parametrize(
    "sent", [b"", b"POST / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", b"\r\n"]
)
def test_a_request_that_is_not_complete_in_time_loses_its_connection(
    started: Callable[..., Server], sent: bytes, connected: Connect
) -> None:
    port = started(Limits(request_seconds=0.2)).port
    client = connected(port, "127.0.0.66")
    client.sendall(sent)
    assert is_closed(client)
    assert ask(port, content=b"abc").content == b"abc127.0.0.1"


def test_drops_do_not_lengthen_the_time_of_a_request(started: Callable[..., Server], connected: Connect) -> None:
    client = connected(started(Limits(request_seconds=1)).port, "127.0.0.66")
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.05):
            try:
                client.send(b"x")
            except OSError:
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        assert is_closed(client)
    finally:
        stop.set()
        dripping.join()


def test_a_kept_connection_may_be_idle_longer_than_a_request_may_take(started: Callable[..., Server]) -> None:
    port = started(Limits(request_seconds=0.1, idle_seconds=60)).port
    with requests.Session() as session:
        for _ in range(3):
            assert session.post(f"http://127.0.0.1:{port}/", timeout=30).status_code == 200
            threading.Event().wait(0.3)


def test_an_answer_nobody_reads_holds_no_thread_and_ends(started: Callable[..., Server], connected: Connect) -> None:
    port = started(Limits(answer_seconds=0.5)).port
    readers = [connected(port, "127.0.0.66", window=4096) for _ in range(3 * server.THREADS)]
    for reader in readers:
        reader.sendall(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
    assert ask(port).status_code == 200
    threading.Event().wait(3)
    for reader in readers:
        reader.settimeout(30)
        found = 0
        try:
            while piece := reader.recv(1 << 20):
                found += len(piece)
        except ConnectionResetError:
            pass
        assert found < LONG
    assert len(ask(port, "/long").content) == LONG


def test_for_one_connection_too_many_the_one_that_waited_longest_is_closed(
    started: Callable[..., Server], connected: Connect
) -> None:
    port = started(Limits(connections=6, connections_per_peer=4)).port
    of_one = [connected(port, "127.0.0.66") for _ in range(5)]
    assert is_closed(of_one[0])
    assert ask(port).status_code == 200  # of another address
    others = [connected(port, address) for address in ("127.0.0.67", "127.0.0.68", "127.0.0.69")]
    assert is_closed(of_one[1])
    others[-1].sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert b"200 OK" in others[-1].recv(100)


def test_on_a_door_for_both_families_a_peer_is_one_whatever_its_address_looks_like(
    application: Application, connected: Connect
) -> None:
    """Of IPv4 clients such a door shows addresses of IPv6; each of them was one of all that are written so."""
    made = Server(application, server.tcp("::", 0), Limits(connections_per_peer=4, request_seconds=300))
    made.start()
    of_six: list[socket.socket] = []
    try:
        for _ in range(5):
            of_six.append(socket.create_connection(("::1", made.port), 30))
        assert is_closed(of_six[0])
        of_four = [connected(made.port, "127.0.0.66") for _ in range(5)]
        assert is_closed(of_four[0])
        of_other = [connected(made.port, "127.0.0.67") for _ in range(4)]
        for client in of_six[1:] + of_four[1:] + of_other:  # nobody lost one for another
            assert b"200 OK" in answer_of(client)
    finally:
        for client in of_six:
            client.close()
        made.stop()


def test_what_is_no_request_is_refused_in_the_services_dialect(started: Callable[..., Server], connected: Connect) -> None:
    port = started(Limits()).port
    for sent, code in ((b"nonsense\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nX: ".ljust(64 << 10, b"x"), 431)):
        client = connected(port, "127.0.0.66")
        client.sendall(sent)
        head, _, content = whole(client).partition(b"\r\n\r\n")
        assert f" {code} ".encode() in head
        (fault,) = json.loads(content).values()
        assert fault["code"] == code


@pytest.mark.parametrize("shape", SHAPES)
def test_no_request_is_read_out_of_another_one(
    started: Callable[..., Server], application: Application, connected: Connect, shape: str
) -> None:
    """One that has two ends is refused, and its connection closed: what follows it is nobody's request."""
    client = connected(started(Limits()).port, "127.0.0.66")
    headers, content = SHAPES[shape]
    client.sendall(b"POST /first HTTP/1.1\r\nX-First: a\r\n" + headers + b"\r\n" + content + SMUGGLED)
    head, _, answer = whole(client).partition(b"\r\n\r\n")
    assert b" 400 " in head.splitlines()[0]
    assert json.loads(answer)["badRequest"]["code"] == 400  # and nothing after it
    assert application.seen == []


def test_urgent_data_wakes_nobody_and_is_not_told_without_end(
    started: Callable[..., Server], connected: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """One byte of it made the loop turn, and write a line to the log each time, until the connection's time was over."""
    port = started(Limits(request_seconds=0.3)).port
    client = connected(port, "127.0.0.66")
    client.send(b"x", socket.MSG_OOB)
    assert is_closed(client)
    assert ask(port, content=b"abc").content == b"abc127.0.0.1"
    assert "priority" not in caplog.text


def test_hundreds_of_requests_in_one_piece_lose_their_connection(started: Callable[..., Server], connected: Connect) -> None:
    port, request = started(Limits()).port, b"GET / HTTP/1.1\r\n\r\n"
    client = connected(port, "127.0.0.66")
    client.sendall(request * 300)
    assert is_closed(client)
    client = connected(port, "127.0.0.66")
    client.sendall(request * 9 + b"GET / HTTP/1.0\r\n\r\n")
    assert whole(client).count(b"200 OK") == 10


def test_a_connection_that_cannot_be_taken_closes_the_door_to_nobody(
    started: Callable[..., Server], connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_self: Connections, _latest: Channel) -> None:
        raise MemoryError

    port = started(Limits()).port
    with monkeypatch.context() as patched:
        patched.setattr(Connections, "surplus", fails)
        connected(port, "127.0.0.66").sendall(b"GET / HTTP/1.0\r\n\r\n")
        threading.Event().wait(0.2)
    assert ask(port).status_code == 200


def test_a_request_without_a_body_that_expects_to_be_told_to_go_on_is_answered(
    started: Callable[..., Server], connected: Connect
) -> None:
    port = started(Limits()).port
    client = connected(port, "127.0.0.66")
    client.sendall(b"GET / HTTP/1.1\r\nExpect: 100-continue\r\n\r\nGET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    found = whole(client)
    assert (found.count(b"200 OK"), found.count(b"100 Continue")) == (2, 0)
    client = connected(port, "127.0.0.66")
    client.sendall(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 3\r\n\r\n")
    assert b"100 Continue" in client.recv(100)
    client.sendall(b"abc")
    assert whole(client).endswith(b"abc127.0.0.66")


def test_peers_take_turns(started: Callable[..., Server], application: Application, connected: Connect) -> None:
    """Of the many requests of one peer none but those under way are answered before the one request of another."""
    port = started(Limits()).port
    many = [connected(port, "127.0.0.66") for _ in range(10 * server.THREADS)]
    for client in many:
        client.sendall(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
    assert application.held.wait(30)
    one = connected(port, "127.0.0.67")
    one.sendall(b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n")
    application.go_on.set()
    assert b"200 OK" in one.recv(100)


def test_a_server_stops_while_somebody_leans_on_it(application: Application, connected: Connect) -> None:
    made = Server(application, server.tcp("127.0.0.1", 0), Limits())
    made.start()
    held = [connected(made.port, "127.0.0.66") for _ in range(50)]
    held[0].sendall(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
    assert application.held.wait(30)
    threading.Timer(0.5, application.go_on.set).start()
    made.stop()
    assert b"200 OK" in held[0].recv(100)  # what was under way is answered
    assert all(is_closed(client) for client in held[1:])
    with pytest.raises(ConnectionRefusedError):
        connected(made.port, "127.0.0.66")


def test_a_server_that_was_never_started_stops() -> None:
    Server(Application(), server.tcp("127.0.0.1", 0), Limits()).stop()


def test_an_address_that_is_taken_is_told() -> None:
    first = server.tcp("127.0.0.1", 0)
    first.listen()
    with first, pytest.raises(BadConfiguration, match="cannot listen on"):
        server.tcp("127.0.0.1", first.getsockname()[1])


def test_a_unix_socket_below_a_long_path_is_for_this_user_only(tmp_path: Path, application: Application) -> None:
    directory = tmp_path / ("long" * 40)
    directory.mkdir()
    path = directory / "api.sock"
    path.write_text("left over")
    made = Server(application, server.unix(path), Limits())
    made.start()
    try:
        assert path.stat().st_mode & 0o777 == 0o600
        with requests.Session() as session:
            session.mount("http://volumes.example:8776/v3", UnixAdapter(path))
            for _ in range(3):
                answer = session.post("http://volumes.example:8776/v3/", data=b"abc", timeout=30)
                assert (answer.status_code, answer.content) == (200, b"abclocalhost")
    finally:
        made.stop()
    with requests.Session() as session, pytest.raises(requests.ConnectionError, match="cannot connect to"):
        session.mount("http://volumes.example:8776/v3", UnixAdapter(path))
        session.get("http://volumes.example:8776/v3/", timeout=30)

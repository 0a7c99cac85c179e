"""The HTTP server alone, over real sockets, with deadlines short enough to wait for."""

import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from stillframe.errors import BadConfiguration
from stillframe.service_client.unix import UnixAdapter
from stillframe.web import server
from stillframe.web.certificates import Certificates
from stillframe.web.channel import Channel
from stillframe.web.connections import Connections
from stillframe.web.limits import Limits
from stillframe.web.proxies import Proxies
from stillframe.web.server import Front, Server
from tests.support import slow_clients
from tests.support.certificates import Authority
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


@dataclass(frozen=True)
class Way:
    """How clients and the server speak: plain, or TLS by a certificate of the tests."""

    scheme: str = "http"
    certificates: Certificates | None = None
    trusted: ssl.SSLContext | None = None
    cafile: Path | None = None

    def front(self, limits: Limits, *proxies: str) -> Front:
        return Front(limits, self.certificates, Proxies(proxies))

    def ask(self, port: int, path: str = "/", content: bytes = b"") -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            verify = str(self.cafile) if self.cafile else True
            return session.post(f"{self.scheme}://127.0.0.1:{port}{path}", data=content, timeout=30, verify=verify)


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Way]:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    pair = authority.pair("server")
    trusted = ssl.create_default_context(cafile=str(authority.cafile))
    return {
        "plain": Way(),
        "TLS": Way("https", Certificates("volumes", pair.certificate, pair.key), trusted, authority.cafile),
    }


@pytest.fixture(params=["plain", "TLS"])
def way(request: pytest.FixtureRequest, ways: dict[str, Way]) -> Way:
    return ways[request.param]


only_plain = pytest.mark.parametrize("way", ["plain"], indirect=True)
only_tls = pytest.mark.parametrize("way", ["TLS"], indirect=True)


@pytest.fixture
def connected(way: Way) -> Iterator[Connect]:
    """Opens connections and closes them at the end."""
    made: list[socket.socket] = []

    def connect(port: int, address: str, window: int = 0) -> socket.socket:
        made.append(slow_clients.connected(port, address, window, way.trusted))
        return made[-1]

    yield connect
    for one in made:
        one.close()


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def started(application: Application, way: Way) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def start(limits: Limits, *proxies: str) -> Server:
        made.append(Server(application, server.tcp("127.0.0.1", 0), way.front(limits, *proxies)))
        made[-1].start()
        return made[-1]

    yield start
    application.go_on.set()
    for each in made:
        each.stop()


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
    started: Callable[..., Server], sent: bytes, connected: Connect, way: Way
) -> None:
    port = started(Limits(request_seconds=0.2)).port
    client = connected(port, "127.0.0.66")
    client.sendall(sent)
    assert is_closed(client)
    assert way.ask(port, content=b"abc").content == b"abc127.0.0.1"


def test_single_bytes_do_not_extend_the_time_of_a_request(started: Callable[..., Server], connected: Connect) -> None:
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


def test_a_kept_connection_may_be_idle_longer_than_a_request_may_take(started: Callable[..., Server], way: Way) -> None:
    port = started(Limits(request_seconds=0.1, idle_seconds=60)).port
    with requests.Session() as session:
        session.trust_env, session.verify = False, str(way.cafile)
        for _ in range(3):
            assert session.post(f"{way.scheme}://127.0.0.1:{port}/", timeout=30).status_code == 200
            threading.Event().wait(0.3)


def test_an_answer_nobody_reads_holds_no_thread_and_ends(started: Callable[..., Server], connected: Connect, way: Way) -> None:
    port = started(Limits(answer_seconds=0.5)).port
    readers = [connected(port, "127.0.0.66", window=4096) for _ in range(3 * server.THREADS)]
    for reader in readers:
        reader.sendall(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
    assert way.ask(port).status_code == 200
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
    assert len(way.ask(port, "/long").content) == LONG


def test_for_one_connection_too_many_the_one_that_waited_longest_is_closed(
    started: Callable[..., Server], connected: Connect, way: Way
) -> None:
    port = started(Limits(connections=6, connections_per_peer=4)).port
    of_one = [connected(port, "127.0.0.66") for _ in range(5)]
    assert is_closed(of_one[0])
    assert way.ask(port).status_code == 200  # of another address
    others = [connected(port, address) for address in ("127.0.0.67", "127.0.0.68", "127.0.0.69")]
    assert is_closed(of_one[1])
    others[-1].sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert b"200 OK" in others[-1].recv(100)


@only_plain
def test_on_a_dual_stack_socket_a_peer_counts_once_in_either_notation(application: Application, connected: Connect) -> None:
    """Of IPv4 clients such a door shows addresses of IPv6; each of them was one of all that are written so."""
    made = Server(application, server.tcp("::", 0), Front(Limits(connections_per_peer=4, request_seconds=300)))
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


NETWORKS = """
import socket
from stillframe.web import server
from stillframe.web.limits import Limits

made = server.Server(lambda environ, start: [], server.tcp("::", 0), server.Front(Limits(connections_per_peer=4)))
made.start()

def connected(address):
    one = socket.socket(socket.AF_INET6)
    one.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND: the network is local, its addresses are nobody's
    one.bind((address, 0))
    one.connect(("::1", made.port))
    one.settimeout(30)
    return one

others = [connected(f"2001:db8:0:67::{number:x}") for number in range(1, 5)]
of_one = [connected(f"2001:db8:0:66:{number:x}::1") for number in range(5)]
assert b"429" in of_one[0].recv(1000)
for one in others + of_one[1:]:
    one.setblocking(False)
    try:
        raise AssertionError(one.recv(1000))
    except BlockingIOError:
        pass
made.stop()
"""


def test_an_ipv6_peer_is_a_64_bit_network() -> None:
    """One host has all of it to send from. In a network of the test's own, whose loopback has two of them."""
    local = (
        "ip link set lo up; ip -6 route add local 2001:db8:0:66::/64 dev lo; ip -6 route add local 2001:db8:0:67::/64 dev lo"
    )
    command = ["unshare", "--net", "sh", "-ec", f'{local}; exec "$@"', "sh", sys.executable, "-c", NETWORKS]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 0, answer.stderr


def test_a_malformed_request_is_refused_in_the_services_dialect(started: Callable[..., Server], connected: Connect) -> None:
    port = started(Limits()).port
    for sent, code in ((b"nonsense\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nX: ".ljust(64 << 10, b"x"), 431)):
        client = connected(port, "127.0.0.66")
        client.sendall(sent)
        head, _, content = whole(client).partition(b"\r\n\r\n")
        assert f" {code} ".encode() in head
        (fault,) = json.loads(content).values()
        assert fault["code"] == code


@only_plain
@pytest.mark.parametrize("shape", SHAPES)
def test_no_request_is_smuggled_inside_another_one(
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


@only_plain
def test_urgent_data_wakes_the_loop_only_once(
    started: Callable[..., Server], connected: Connect, caplog: pytest.LogCaptureFixture, way: Way
) -> None:
    """One byte of it made the loop turn, and write a line to the log each time, until the connection's time was over."""
    port = started(Limits(request_seconds=0.3)).port
    client = connected(port, "127.0.0.66")
    client.send(b"x", socket.MSG_OOB)
    assert is_closed(client)
    assert way.ask(port, content=b"abc").content == b"abc127.0.0.1"
    assert "priority" not in caplog.text


def test_hundreds_of_requests_in_one_piece_are_answered_one_after_the_other(
    started: Callable[..., Server], connected: Connect
) -> None:
    client = connected(started(Limits()).port, "127.0.0.66")
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 299 + b"GET / HTTP/1.0\r\n\r\n")
    assert whole(client).count(b"200 OK") == 300


@only_plain  # in TLS nothing can be said before the handshake
def test_one_connection_too_many_of_a_peer_whose_others_are_at_work_is_told_so(
    started: Callable[..., Server], application: Application, connected: Connect
) -> None:
    """It was reset, with nothing said."""
    port = started(Limits(connections_per_peer=2)).port
    for _ in range(2):
        connected(port, "127.0.0.66").sendall(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
    assert application.held.wait(30)
    while len(application.seen) < 2:
        threading.Event().wait(0.01)
    client = connected(port, "127.0.0.66")
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    head, _, content = whole(client).partition(b"\r\n\r\n")
    assert b" 429 " in head.splitlines()[0] and b"Retry-After" in head
    assert json.loads(content)["overLimit"]["error_code"] == "too_many_connections"


def test_behind_a_proxy_each_client_has_its_own_limit(
    started: Callable[..., Server], application: Application, connected: Connect
) -> None:
    """The proxy may have more connections than others; of one client behind it only so many requests are under way."""
    port = started(Limits(connections_per_peer=2), "127.0.0.66").port

    def ask(client: str, path: str = "/", address: str = "127.0.0.66") -> socket.socket:
        made = connected(port, address)
        made.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\nConnection: close\r\n\r\n".encode())
        return made

    for _ in range(2):
        ask("198.51.100.1", "/hold")
    while len(application.seen) < 2:
        threading.Event().wait(0.01)
    refused = whole(ask("10.0.0.1, 198.51.100.1"))
    assert b" 429 " in refused.splitlines()[0] and b"Retry-After" in refused and b"too_many_connections" in refused
    assert whole(ask("198.51.100.2")).endswith(b"198.51.100.2")
    assert whole(ask("198.51.100.1", address="127.0.0.67")).endswith(b"127.0.0.67")  # who is no proxy is not believed
    application.go_on.set()


@pytest.mark.parametrize("kind", slow_clients.FLOODS)
def test_beside_a_flood_everybody_is_answered(started: Callable[..., Server], kind: str, way: Way) -> None:
    """From the address of the flood too: served, or told to come again; never reset without a word."""
    port = started(Limits(connections=300, connections_per_peer=100)).port
    with slow_clients.flood(port, *slow_clients.FLOODS[kind], connections=150, trusted=way.trusted):
        for address in ("127.0.0.1", slow_clients.ADDRESSES[0]):
            for _ in range(10):
                client = slow_clients.connected(port, address, trusted=way.trusted)
                with client:
                    client.settimeout(60)
                    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                    status = whole(client).split()[1]
                assert status == b"200" or (status == b"429" and address != "127.0.0.1")


def test_a_connection_that_cannot_be_accepted_does_not_close_the_socket(
    started: Callable[..., Server], connected: Connect, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    def fails(_self: Connections, _latest: Channel) -> None:
        raise MemoryError

    port = started(Limits()).port
    with monkeypatch.context() as patched:
        patched.setattr(Connections, "surplus", fails)
        connected(port, "127.0.0.66").sendall(b"GET / HTTP/1.0\r\n\r\n")
        threading.Event().wait(0.2)
    assert way.ask(port).status_code == 200


def test_a_request_without_a_body_that_expects_to_be_told_to_go_on_is_answered(
    started: Callable[..., Server], connected: Connect
) -> None:
    port = started(Limits()).port
    client = connected(port, "127.0.0.66")
    client.sendall(
        b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    found = whole(client)
    assert (found.count(b"200 OK"), found.count(b"100 Continue")) == (2, 0)
    client = connected(port, "127.0.0.66")
    client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 3\r\n\r\n")
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


def test_a_server_stops_under_load(application: Application, connected: Connect, way: Way) -> None:
    made = Server(application, server.tcp("127.0.0.1", 0), way.front(Limits()))
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
    Server(Application(), server.tcp("127.0.0.1", 0), Front()).stop()


def test_an_address_in_use_is_reported() -> None:
    first = server.tcp("127.0.0.1", 0)
    first.listen()
    with first, pytest.raises(BadConfiguration, match="cannot listen on"):
        server.tcp("127.0.0.1", first.getsockname()[1])


def test_a_unix_socket_below_a_long_path_is_for_this_user_only(tmp_path: Path, application: Application) -> None:
    directory = tmp_path / ("long" * 40)
    directory.mkdir()
    path = directory / "api.sock"
    path.write_text("left over")
    made = Server(application, server.unix(path), Front())
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

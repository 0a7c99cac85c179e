"""The HTTP server behind TLS: clients that begin no handshake, never end it, or make it costly."""

import json
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stillframe.web import server, tls
from stillframe.web.certificates import Certificates
from stillframe.web.limits import Limits
from stillframe.web.server import Front, Server
from tests.support import slow_clients
from tests.support.certificates import Authority

GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
ADDRESS = slow_clients.ADDRESSES[0]


class Site:
    """A server with a certificate, and who trusts it."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.pair = self.authority.pair("server")
        self.certificates = Certificates("volumes", self.pair.certificate, self.pair.key)
        self.way = self.authority.way()
        assert self.way.trusted is not None
        self.trusted = self.way.trusted
        self._servers: list[Server] = []

    def start(self, limits: Limits, certificates: Certificates | None = None) -> int:
        made = Server(_answers, server.tcp("127.0.0.1", 0), Front(limits, certificates or self.certificates))
        self._servers.append(made)
        made.start()
        return made.port

    def connected(self, port: int, trusted: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        found = slow_clients.connected(port, ADDRESS, trusted=trusted or self.trusted)
        assert isinstance(found, ssl.SSLSocket)
        return found

    def asked(self, port: int, trusted: ssl.SSLContext | None = None) -> bytes:
        """Returns the whole answer to a request; that it ends with a close_notify is a part of it."""
        plain, context = slow_clients.connected(port, ADDRESS), trusted or self.trusted
        with context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as client:
            client.sendall(GET)
            found = b""
            while piece := client.recv(1 << 16):
                found += piece
        return found

    def stop(self) -> None:
        for each in self._servers:
            each.stop()


def _answers(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    content = environ["wsgi.input"].read() + environ["wsgi.url_scheme"].encode()
    start_response("200 OK", [("Content-Length", str(len(content)))])
    return [content]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.stop()


def is_closed(client: socket.socket) -> bool:
    client.settimeout(30)
    try:
        while client.recv(1 << 16):
            continue
    except (ConnectionResetError, ssl.SSLError):
        return True
    return True


def test_an_answer_says_https_and_ends_with_close_notify(site: Site) -> None:
    assert site.asked(site.start(Limits())).endswith(b"\r\n\r\nhttps")


@pytest.mark.parametrize("begun", [0, 1, 5, 100, -1])
def test_a_handshake_that_does_not_end_has_the_time_of_a_request(site: Site, begun: int) -> None:
    """Nothing of it, a byte, a header of a record, a part, all but its last byte."""
    port, hello = site.start(Limits(request_seconds=0.5)), site.way.hello
    with slow_clients.connected(port, ADDRESS) as client:
        client.sendall(hello[:begun])
        assert is_closed(client)
    assert b"200 OK" in site.asked(port)


def test_single_bytes_do_not_extend_the_time_of_a_handshake(site: Site) -> None:
    port = site.start(Limits(request_seconds=1))
    with slow_clients.connected(port, ADDRESS) as client:
        ended = threading.Event()
        dripping = threading.Thread(target=_drip, args=(client, site.way.hello, ended))
        dripping.start()
        try:
            assert is_closed(client)
        finally:
            ended.set()
            dripping.join()


def _drip(client: socket.socket, hello: bytes, ended: threading.Event) -> None:
    for byte in hello:
        if ended.wait(0.05):
            return
        try:
            client.send(bytes([byte]))
        except OSError:
            return


def test_a_handshake_that_comes_a_byte_at_a_time_is_taken(site: Site) -> None:
    port = site.start(Limits())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = site.trusted.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with slow_clients.connected(port, ADDRESS) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                _send_bytewise(plain, outgoing.read())
                incoming.write(plain.recv(1 << 16))
        client.write(GET)
        _send_bytewise(plain, outgoing.read())
        while not (found := _read(client)):
            incoming.write(plain.recv(1 << 16))
    assert b"200 OK" in found


def _send_bytewise(plain: socket.socket, data: bytes) -> None:
    for byte in data:
        plain.send(bytes([byte]))


def _read(client: ssl.SSLObject) -> bytes:
    try:
        return client.read(1 << 16)
    except ssl.SSLWantReadError:
        return b""


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x40\x00\x01\x02\x00\x00" + b"a" * 0x3FFC,  # a ClientHello of 128 KiB begins
        b"\x16\x03\x01\x00\x01\x01" * 20_000,  # one byte of a message in each record
        b"\x16\x03\x01\xff\xff" + b"a" * 70_000,  # a record longer than any
        b"\x80\x2e\x01\x00\x02",  # SSL 2
        b"\x00" * 100,
        b"\x16" * 100,
    ],
)
def test_a_connection_without_a_handshake_ends_at_once_and_harms_no_other(site: Site, sent: bytes) -> None:
    port = site.start(Limits(request_seconds=300))
    with slow_clients.connected(port, ADDRESS) as client:
        try:
            for _ in range(8):
                client.sendall(sent)
        except OSError:
            pass  # it was closed already
        assert is_closed(client)
    assert b"200 OK" in site.asked(port)


@pytest.mark.parametrize("sent", [GET, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000])
def test_plain_http_is_told_to_speak_tls(site: Site, sent: bytes) -> None:
    with slow_clients.connected(site.start(Limits()), ADDRESS) as client:
        client.sendall(sent)
        with client.makefile("rb") as file:
            head, _, content = file.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert "https://" in json.loads(content)["badRequest"]["message"]


def test_a_client_that_does_not_trust_the_certificate_harms_nobody(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    port = site.start(Limits())
    with pytest.raises(ssl.SSLCertVerificationError):
        site.connected(port, ssl.create_default_context())
    assert b"200 OK" in site.asked(port)
    assert "Traceback" not in caplog.text and not caplog.records


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
)
def test_tls_1_2_and_1_3_are_spoken(site: Site, version: ssl.TLSVersion) -> None:
    port = site.start(Limits())
    offered = ssl.create_default_context(cafile=str(site.authority.cafile))
    offered.set_ciphers("DEFAULT:@SECLEVEL=0")
    offered.minimum_version, offered.maximum_version = version, version
    if version >= ssl.TLSVersion.TLSv1_2:
        assert b"200 OK" in site.asked(port, offered)
    else:
        with pytest.raises(ssl.SSLError):
            site.connected(port, offered)


def test_a_renegotiation_is_refused(site: Site) -> None:
    """Each would cost the server a handshake, on one connection."""
    port = site.start(Limits())
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_2", "-CAfile", str(site.authority.cafile)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    ) as client:
        assert client.stdin is not None and client.stdout is not None
        said = ""
        while "Extended master secret" not in said:
            said += client.stdout.readline()
        client.stdin.write("R\n")  # asks for one
        client.stdin.flush()
        said = client.communicate(timeout=30)[0]
    assert "no renegotiation" in said
    assert b"200 OK" in site.asked(port)


def test_a_slow_reader_has_its_time_and_its_answer_whole(site: Site) -> None:
    content = os.urandom(60_000)
    port = site.start(Limits())
    with slow_clients.connected(port, ADDRESS, 4096, site.trusted) as client:
        head = f"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        client.sendall(head + content)
        found = b""
        while piece := client.recv(1000):
            found += piece
    assert found.endswith(content + b"https")


def test_a_client_that_reads_nothing_of_a_handshake_is_not_read_either(site: Site) -> None:
    """What TLS owes a client that does not read is bounded: nothing more of him is taken until he does."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        ours.setblocking(False)
        while True:
            try:
                ours.send(b"x" * 512)
            except BlockingIOError:
                break
        made = tls.TlsSocket(ours, site.certificates)
        theirs.sendall(site.way.hello)
        with pytest.raises(BlockingIOError):
            made.recv(8192)
        assert made.owes_records
        theirs.recv(1 << 20)
        made.flush()
        assert not made.owes_records


def test_a_client_that_ends_its_side_is_answered_and_disconnected(site: Site) -> None:
    port = site.start(Limits(request_seconds=300, idle_seconds=300))
    with site.connected(port) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        found = b""
        while not found.endswith(b"https"):
            found += client.recv(1000)
        client.unwrap()  # waits for the server's word


def test_a_new_certificate_is_for_new_connections_and_cuts_off_nobody(site: Site) -> None:
    port = site.start(Limits())
    with site.connected(port) as before:
        first = before.getpeercert(binary_form=True)
        fresh = site.authority.pair("fresh")
        os.replace(fresh.certificate, site.pair.certificate)
        site.certificates.read_again()  # the key is still that of the first: refused
        os.replace(fresh.key, site.pair.key)
        with site.connected(port) as meanwhile:
            assert meanwhile.getpeercert(binary_form=True) == first
        site.certificates.read_again()
        with site.connected(port) as after:
            assert after.getpeercert(binary_form=True) != first
        before.sendall(GET)
        assert b"200 OK" in before.recv(1000)


def test_only_clients_with_a_certificate_are_accepted_if_configured(site: Site) -> None:
    port = site.start(Limits(), Certificates("volumes", site.pair.certificate, site.pair.key, site.authority.cafile))
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        site.asked(port)
    known = site.authority.pair("client", for_servers=False)
    shown = ssl.create_default_context(cafile=str(site.authority.cafile))
    shown.load_cert_chain(known.certificate, known.key)
    assert b"200 OK" in site.asked(port, shown)


def test_a_thousand_handshakes_that_never_end_stop_nobody(site: Site) -> None:
    port = site.start(Limits())
    with slow_clients.crowd(port, 1000, 0, 0, site.way):
        for _ in range(10):
            assert b"200 OK" in site.asked(port)

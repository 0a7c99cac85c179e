"""What stands at another service's address, and is not that service: it gets no password, no memory, and no thread for long."""

import gzip
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from stillframe.errors import BackupStoreUnavailable, ServiceUnavailable
from stillframe.service_client import bounded, identity
from stillframe.service_client.session import Endpoint, Session
from stillframe.volumes.backups import s3

Behave = Callable[[socket.socket], object]
Choose = Callable[[bytes], Behave]
GROWN_MIB = 100
ENDLESS = 1 << 40


@contextmanager
def listening(behave: Behave, choose: Choose | None = None) -> Iterator[tuple[str, list[bytes]]]:
    """A service that reads a request and then does as it likes, always or by what is asked; gives its address and the
    requests."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as door:
        threading.Thread(target=_serve, args=(door, choose or (lambda _: behave), asked), daemon=True).start()
        yield f"http://127.0.0.1:{door.getsockname()[1]}", asked
        with suppress(OSError):
            door.shutdown(socket.SHUT_RDWR)


def _serve(door: socket.socket, choose: Choose, asked: list[bytes]) -> None:
    while True:
        try:
            peer, _ = door.accept()
        except OSError:
            return
        with peer, suppress(OSError):
            asked.append(peer.recv(1 << 16))
            choose(asked[-1])(peer)


def answer(body: bytes, *head: str, status: str = "200 OK", length: int | None = None) -> Behave:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *head]
    return lambda peer: peer.sendall("\r\n".join([*lines, "", ""]).encode() + body)


def endlessly(start: bytes, piece: bytes, seconds: float) -> Behave:
    def send(peer: socket.socket) -> None:
        peer.sendall(start)
        while not ended.wait(seconds):
            peer.sendall(piece)

    ended = threading.Event()
    return send


def session(url: str) -> Session:
    return Session(Endpoint("volume", f"{url}/v3", "service", "canary", "3.71"), 10.0)


LIES: dict[str, Behave] = {
    "redirected to a file": answer(b"", "Location: file:///etc/passwd", status="302 Found"),
    "redirected to itself": answer(b"", "Location: /v3/volumes/x", status="307 Temporary Redirect"),
    "no object": answer(b"[]"),
    "nested too deeply": answer(b"[" * 1_000_000),
    "a fault nested too deeply": answer(b'{"a":' * 100_000, status="404 Not Found"),
    "compressed": answer(gzip.compress(bytes(8 << 20)), "Content-Encoding: gzip"),
    "endless": endlessly(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % ENDLESS, bytes(1 << 20), 0),
    "endless in chunks": endlessly(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n%b\r\n" % bytes(65536), 0
    ),
    "dripping": endlessly(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b" ", 0.05),
    "dripping its head": endlessly(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a", 0.05),
    "cut off": answer(b"{}", length=3),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_is_not_the_services_is_refused_within_limits(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(bounded, "DOCUMENT_BYTES", 8 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with listening(LIES[lie]) as (url, asked), pytest.raises(ServiceUnavailable):
        session(url).call("GET", "/volumes/x")
    assert len(asked) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GROWN_MIB << 10


def test_the_password_is_sent_to_no_other_address() -> None:
    """The service that was asked says where to ask: its word sends no password to another address."""
    with listening(answer(b'{"volume": {}}')) as (elsewhere, stolen):
        for status in ("301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"):
            sent_away = answer(b"", f"Location: {elsewhere}/v3/volumes/x", status=status)
            with listening(sent_away) as (url, _), pytest.raises(ServiceUnavailable):
                session(url).call("GET", "/volumes/x")
        assert stolen == []


def test_a_key_missing_in_an_answer_is_reported_as_the_services_fault() -> None:
    with listening(answer(b"{}")) as (url, _), pytest.raises(ServiceUnavailable, match="its answer lacks 'volume'"):
        session(url).call("GET", "/volumes/x")["volume"]


def test_a_large_download_has_the_time_it_needs_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads piece by piece, as of an image, is bounded by how fast it comes alone."""
    monkeypatch.setattr(bounded, "ANSWER_SECONDS", 0.5)
    quick = answer(bytes(64 << 20))
    with listening(quick) as (url, _):
        got = identity.bare_session(None, 10.0).get(url, stream=True)
        assert sum(len(piece) for piece in got.iter_content(1 << 20)) == 64 << 20
    with listening(LIES["dripping"]) as (url, _):
        got = identity.bare_session(None, 10.0).get(url, stream=True)
        with pytest.raises(OSError, match="timed out"):
            list(got.iter_content(1 << 20))


# A backup store in S3

_ID = "7a7a7a7a-7777-4777-8777-777777777777"
KEY = f"volume-{_ID}/backup-{_ID}.json"


def with_marker(behave: Behave) -> Choose:
    """The store has its marker, and lies about everything else."""
    marker = answer(b'{"store_id": "s"}', "Connection: close")
    return lambda asked: marker if s3.MARKER.encode() in asked else behave


def listed(entries: str, more: str = "") -> Behave:
    return answer(f"<ListBucketResult>{entries}{more}</ListBucketResult>".encode(), "Connection: close")


def page_after_page() -> Behave:
    """Each page names a next one."""
    number = iter(range(1 << 30))
    entry = f"<Contents><Key>volumebackups/{KEY}</Key><Size>1</Size></Contents>" * 100

    def send(peer: socket.socket) -> None:
        token = f"<NextContinuationToken>{next(number)}</NextContinuationToken>"
        listed(entry, f"<IsTruncated>true</IsTruncated>{token}")(peer)

    return send


LISTINGS: dict[str, Behave] = {
    "without an end": page_after_page(),
    "longer than any": LIES["endless"],
    "dripping": LIES["dripping"],
    "without a size": listed(f"<Contents><Key>volumebackups/{KEY}</Key></Contents>"),
    "without a key": listed("<Contents><Size>1</Size></Contents>"),
    "with a size in words": listed(f"<Contents><Key>volumebackups/{KEY}</Key><Size>one</Size></Contents>"),
    "sent away": answer(b"", "Location: file:///etc/passwd", "Connection: close", status="302 Found"),
}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], s3.S3Repository]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    monkeypatch.setattr(s3, "_TRIES", 2)
    monkeypatch.setattr(s3, "_MOST_LISTED", 2000)
    monkeypatch.setattr(bounded, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(bounded, "DOCUMENT_BYTES", 8 << 20)
    place = s3.Place("bucket", "", "volumebackups", "s")
    return lambda url: s3.S3Repository(place, s3.connect(url, "us-east-1", None))


@pytest.mark.parametrize("lie", LISTINGS)
def test_an_invalid_listing_is_refused_within_limits(lie: str, store: Callable[[str], s3.S3Repository]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with listening(LISTINGS[lie], with_marker(LISTINGS[lie])) as (url, _), pytest.raises(BackupStoreUnavailable):
        store(url).list()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GROWN_MIB << 10


@pytest.mark.parametrize("lie", ["dripping", "cut off", "dripping its head"])
def test_an_object_that_comes_too_slowly_is_not_waited_for(lie: str, store: Callable[[str], s3.S3Repository]) -> None:
    with listening(LIES[lie], with_marker(LIES[lie])) as (url, _), pytest.raises(BackupStoreUnavailable):
        store(url).get_bytes(KEY, 1 << 20)

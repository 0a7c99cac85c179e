"""How long and how much an answer may be."""

import gzip
import io
from pathlib import Path

import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter

from stillframe.service_client import bounded
from tests.unit.http_site import Site, answer


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 7.0
        monkeypatch.setattr("stillframe.service_client.bounded.time.monotonic", lambda: self.now)


class Slow(io.RawIOBase):
    """Gives ``amount`` bytes at each read, which takes ``seconds``."""

    def __init__(self, clock: Clock, amount: int, seconds: float) -> None:
        self._clock, self._amount, self._seconds = clock, amount, seconds

    def readable(self) -> bool:
        return True

    def readinto(self, into: bytearray) -> int:  # type: ignore[override]
        self._clock.now += self._seconds
        count = min(self._amount, len(into))
        into[:count] = bytes(count)
        return count


def read(below: io.RawIOBase, most: int) -> int:
    """How many bytes came until the end, or until it took too long."""
    stream, came = bounded._Stream(below), 0
    try:
        while came < most:
            came += len(stream.read(1 << 20) or b"")
    except TimeoutError:
        pass
    return came


def test_each_byte_alone_does_not_begin_the_time_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 60 <= read(Slow(Clock(monkeypatch), 1, 1.0), 1000) <= 63


def test_what_comes_fast_enough_has_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(Slow(Clock(monkeypatch), 200 << 10, 1.0), 100 << 20) >= 100 << 20


def test_the_wait_for_the_first_byte_is_another_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service may store an image before it answers."""
    assert read(Slow(Clock(monkeypatch), 1 << 20, 900.0), 1) > 0


def sent(monkeypatch: pytest.MonkeyPatch, body: bytes, **headers: str) -> tuple[requests.Response, requests.PreparedRequest]:
    def answer(_self: object, request: requests.PreparedRequest, *_more: object, **_named: object) -> requests.Response:
        made = requests.Response()
        made.status_code = 200
        made.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
        made.raw = urllib3.HTTPResponse(io.BytesIO(body), preload_content=False)
        return made

    monkeypatch.setattr(HTTPAdapter, "send", answer)
    request = requests.Request("GET", "http://a/").prepare()
    return bounded.BoundedAdapter().send(request), request


def test_an_answer_is_read_whole_and_asked_for_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found, request = sent(monkeypatch, b"{}")
    assert found.content == b"{}"
    assert request.headers["Accept-Encoding"] == "identity"


def test_one_that_is_compressed_all_the_same_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(requests.exceptions.ConnectionError, match="compressed"):
        sent(monkeypatch, gzip.compress(b"{}"), Content_Encoding="gzip")


def test_one_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "DOCUMENT_BYTES", 10)
    with pytest.raises(requests.exceptions.ConnectionError, match="more than 10 bytes"):
        sent(monkeypatch, bytes(11))


def test_what_a_netrc_says_replaces_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("default login root password canary\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    site = Site(lambda _request: answer(200, {}))
    session = bounded.bounded()
    session.mount("http://", site)
    session.get("http://volumes.example.org/", headers={"Authorization": "Basic ours"})
    session.get("http://volumes.example.org/", headers={"X-Auth-Token": "ours"})
    assert [request.headers.get("Authorization") for request in site.asked] == ["Basic ours", None]

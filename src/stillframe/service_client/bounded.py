"""Limits the answers of other services: a service that is broken, or an impostor at its address, costs us no more than this.

An answer may take ANSWER_SECONDS from its first byte, and one second more for each BYTES_A_SECOND that came; the time limit of
``requests`` starts again with each byte (requests 2.34). A document has at most DOCUMENT_BYTES and is not compressed, because a
few KiB of gzip may become GiB of text.
"""

import io
import time
from http.client import HTTPResponse
from typing import Any

import requests
from keystoneauth1.session import TCPKeepAliveAdapter
from requests.adapters import HTTPAdapter
from urllib3 import connection, connectionpool
from urllib3.exceptions import HTTPError

ANSWER_SECONDS = 60.0
BYTES_A_SECOND = 100 << 10
DOCUMENT_BYTES = 64 << 20
_PIECE = 1 << 18


class _Stream(io.RawIOBase):
    """What comes from a connection, while it comes fast enough, and at most ``most`` bytes. Raises TimeoutError, OSError."""

    def __init__(self, below: io.RawIOBase, most: int | None = None) -> None:
        self.most = most
        self._below = below
        self._began: float | None = None
        self._came = 0

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int | None:
        if self._began is not None:
            allowed = ANSWER_SECONDS + self._came / BYTES_A_SECOND
            if time.monotonic() - self._began > allowed:
                raise TimeoutError(f"the answer did not end within {allowed:.0f} s")
        if self.most is not None and self._came > self.most:
            raise OSError(f"the answer has more than {self.most} bytes")
        count = self._below.readinto(into)
        self._began = self._began or time.monotonic()
        self._came += count or 0
        return count

    def close(self) -> None:
        self._below.close()
        super().close()


class Answer(HTTPResponse):
    """An answer whose head and body are read through ``_Stream``; together they have at most ``most`` bytes. A refusal has the
    limit of a document, whatever was asked for."""

    def __init__(self, *arguments: Any, most: int | None = None, **more: Any) -> None:
        super().__init__(*arguments, **more)
        whole: Any = self.fp  # the socket's buffered reader
        self._stream = _Stream(whole.detach(), most)
        self.fp = io.BufferedReader(self._stream)

    def begin(self) -> None:
        super().begin()
        if self.status >= 300:
            self._stream.most = DOCUMENT_BYTES


class _Connection(connection.HTTPConnection):
    response_class = Answer


class _TlsConnection(connection.HTTPSConnection):
    response_class = Answer


class _Pool(connectionpool.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(connectionpool.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class BoundedAdapter(HTTPAdapter):
    """Reads every answer whole, within the limits, unless its caller reads it piece by piece (``stream``)."""

    def send(self, request: requests.PreparedRequest, stream: bool = False, *arguments: Any, **more: Any) -> requests.Response:
        """Raises ConnectionError of requests for an answer beyond the limits."""
        request.headers["Accept-Encoding"] = "identity"
        answer = super().send(request, stream, *arguments, **more)
        if not stream:
            try:
                vars(answer).update(_content=_whole(answer), _content_consumed=True)
            except (HTTPError, OSError) as error:
                answer.close()
                raise requests.exceptions.ConnectionError(f"its answer cannot be read: {error}", request=request) from error
            except BaseException:
                answer.close()
                raise
        return answer


class BoundedTcpAdapter(BoundedAdapter, TCPKeepAliveAdapter):
    """The same over the network, with the connection options of Keystone's library."""

    def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
        super().init_poolmanager(*arguments, **more)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}


def _whole(answer: requests.Response) -> bytes:
    """Raises OSError, HTTPError."""
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise OSError("it is compressed, though nobody asked for that")
    kept = bytearray()
    while piece := answer.raw.read(_PIECE, decode_content=False):
        kept += piece
        if len(kept) > DOCUMENT_BYTES:
            raise OSError(f"it has more than {DOCUMENT_BYTES} bytes")
    answer.raw.release_conn()
    return bytes(kept)


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def bounded() -> requests.Session:
    """Returns a session of requests whose answers are all limited, and which sends only the credentials of its caller.
    Otherwise those for the host, or the default ones, in this user's ``.netrc`` would replace them (requests 2.34)."""
    made = requests.Session()
    made.auth = _as_it_is
    for scheme in ("http://", "https://"):
        made.mount(scheme, BoundedTcpAdapter())
    return made

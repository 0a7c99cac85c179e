"""Connections that wait for their client: how long each may, how many a peer may have, and which is closed for another.

Times are of the monotonic clock, in seconds. Everything but ``Channel.service`` runs in the thread that reads and writes.
"""

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from waitress.channel import HTTPChannel
from waitress.task import ErrorTask

from stillframe.web import faults
from stillframe.web.parser import Parser
from stillframe.web.peers import network_of

# Of answers. Who has so many unread and has sent further requests loses the connection: waitress would hold a thread at its
# own limit until they are read.
UNREAD_BYTES = 4 << 20
PIPELINED = 16  # requests sent before the first is answered; one piece of 8 KiB could hold hundreds


@dataclass(frozen=True)
class Limits:
    """How many connections at most, and how long each may wait for its client."""

    connections: int = 2000
    connections_per_peer: int = 500
    request_seconds: float = 20.0  # from the first byte to the last, and from the connection to the first byte
    idle_seconds: float = 60.0  # after an answer, until the next request begins
    answer_seconds: float = 60.0  # until the client has taken the whole answer


class Refusal(ErrorTask):  # type: ignore[misc]
    """Answers what is not HTTP, or too long, in the dialect of the services."""

    def execute(self) -> None:
        error = self.request.error
        content = json.dumps(faults.of_status(error.code, str(error.body))).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(content)
        self.write(content)


class Channel(HTTPChannel):  # type: ignore[misc]
    """One connection, and since when it waits for its client."""

    error_task_class = Refusal
    parser_class = Parser

    def __init__(self, server: Any, sock: Any, addr: Any, adj: Any, map: Any = None) -> None:
        self.peer = network_of(str(addr[0]))
        self._since = time.monotonic()
        self._receiving = self._answered = False
        self._begun: Any = None  # the request a thread has taken up last
        super().__init__(server, sock, addr, adj, map=map)

    @property
    def is_answering(self) -> bool:
        """A request is complete, and its answer is not yet made or not yet taken."""
        return bool(self.requests) or bool(self.total_outbufs_len)

    @property
    def is_closable(self) -> bool:
        """What it waits for is its client's to do."""
        return not self.requests

    @property
    def is_worked_at(self) -> bool:
        """A thread has taken up its request; else the request waits for a thread."""
        first = next(iter(self.requests), None)
        return first is not None and first is self._begun

    @property
    def waits_since(self) -> float:
        return self._since

    def deadline(self, limits: Limits) -> float | None:
        """When its time is over; None while we work for it."""
        if self.requests:
            return None
        if self.total_outbufs_len:
            return self._since + limits.answer_seconds
        if self._receiving or not self._answered:
            return self._since + limits.request_seconds
        return self._since + limits.idle_seconds

    def received(self, data: bytes) -> Any:
        if not self._receiving:  # from here on it has the time of one request, however it is cut into pieces
            self._receiving = True
            if self._answered:
                self._since = time.monotonic()
        answer = super().received(data)
        if len(self.requests) > PIPELINED:
            self.handle_close()
        return answer

    def service(self) -> None:
        """Runs in a working thread."""
        if self.total_outbufs_len > UNREAD_BYTES:
            self.cancel()
            self.server.look_again(self._fileno)
            return
        self._begun = self.requests[0]
        self._since = math.inf  # its client has nothing to do meanwhile
        super().service()
        self._receiving, self._answered, self._since = False, True, time.monotonic()
        self.server.look_again(self._fileno)

    def add_channel(self, map: Any = None) -> None:
        super().add_channel(map)
        self.server.connections.add(self)

    def del_channel(self, map: Any = None) -> None:
        super().del_channel(map)
        self.server.connections.remove(self)


class Connections:
    """All connections of one listening socket, by peer."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_peer: defaultdict[str, set[Channel]] = defaultdict(set)
        self._count = 0
        self.latest: Channel | None = None

    def __iter__(self) -> Iterator[Channel]:
        return (channel for channels in list(self._by_peer.values()) for channel in list(channels))

    def add(self, channel: Channel) -> None:
        self._by_peer[channel.peer].add(channel)
        self._count += 1
        self.latest = channel

    def remove(self, channel: Channel) -> None:
        channels = self._by_peer.get(channel.peer, set())
        if channel in channels:
            channels.remove(channel)
            self._count -= 1
            if not channels:
                del self._by_peer[channel.peer]

    def surplus(self, latest: Channel) -> Channel | None:
        """Returns the connection to close now that ``latest`` has come: of its peer when that has too many, else of the peer
        that has most. It is the one that has waited longest for its client; when none does, one of another peer whose request
        waits for a thread, else ``latest``: what a thread works at is never closed."""
        if len(self._by_peer[latest.peer]) > self._limits.connections_per_peer:
            crowd = self._by_peer[latest.peer]
        elif self._count > self._limits.connections:
            crowd = max(self._by_peer.values(), key=len)
        else:
            return None
        others = [channel for channel in crowd if channel is not latest]
        closable = [channel for channel in others if channel.is_closable]
        if not closable and latest not in crowd:
            closable = [channel for channel in others if not channel.is_worked_at]
        return min(closable, key=lambda channel: channel.waits_since, default=latest)

    def too_slow(self, moment: float) -> list[Channel]:
        """Returns the connections whose time is over."""
        found = ((channel, channel.deadline(self._limits)) for channel in self)
        return [channel for channel, deadline in found if deadline is not None and deadline <= moment]

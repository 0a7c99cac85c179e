"""Keeps all connections of a listening socket: how many a peer may have, and which one is closed for another."""

import threading
from collections import defaultdict
from collections.abc import Iterator

from stillframe.errors import ServiceBusy, StillframeError, TooManyConnections
from stillframe.web.channel import Channel
from stillframe.web.limits import Limits


class Connections:
    """All connections of one listening socket, by peer."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_peer: defaultdict[str, set[Channel]] = defaultdict(set)
        self._count = 0
        self._by_client: defaultdict[str, set[Channel]] = defaultdict(set)  # connections of proxies with a request under way
        self._lock = threading.Lock()  # guards those, because a request ends in a worker thread

    def __iter__(self) -> Iterator[Channel]:
        return (channel for channels in list(self._by_peer.values()) for channel in list(channels))

    def add(self, channel: Channel) -> None:
        self._by_peer[channel.peer].add(channel)
        self._count += 1

    def remove(self, channel: Channel) -> None:
        self.ended(channel)
        channels = self._by_peer.get(channel.peer, set())
        if channel in channels:
            channels.remove(channel)
            self._count -= 1
            if not channels:
                del self._by_peer[channel.peer]

    def began(self, channel: Channel) -> StillframeError | None:
        """Notes that a request of a client behind a proxy is under way. Returns the error that refuses it when there are too
        many."""
        with self._lock:
            together = self._by_client[channel.client]
            together.add(channel)
            too_many = len(together) > self._limits.connections_per_peer
        return self._too_many() if too_many else None

    def ended(self, channel: Channel) -> None:
        with self._lock:
            together = self._by_client.get(channel.client, set())
            together.discard(channel)
            if not together:
                self._by_client.pop(channel.client, None)

    def surplus(self, latest: Channel) -> Channel | None:
        """Returns the connection to close now that ``latest`` has come: one of its peer if that has too many, else one of the
        peer that has most.

        It is the one that has been waiting longest for its client. If none is waiting, it is one of another peer whose request
        waits for its turn or for a thread, else ``latest``. A connection whose request a thread works on is never closed.
        """
        if not latest.is_proxy and len(self._by_peer[latest.peer]) > self._limits.connections_per_peer:
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

    def why(self, surplus: Channel) -> StillframeError:
        """Returns the error for the client of such a connection."""
        if not surplus.is_proxy and len(self._by_peer[surplus.peer]) > self._limits.connections_per_peer:
            return self._too_many()
        return ServiceBusy(f"more than {self._limits.connections} connections to this service are open")

    def _too_many(self) -> StillframeError:
        return TooManyConnections(f"this address has more than {self._limits.connections_per_peer} connections open")

    def too_slow(self, moment: float) -> list[Channel]:
        """Returns the connections whose time is over at that moment."""
        found = ((channel, channel.deadline(self._limits)) for channel in self)
        return [channel for channel, deadline in found if deadline is not None and deadline <= moment]

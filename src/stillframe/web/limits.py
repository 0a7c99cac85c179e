"""How many connections a service keeps, and how long each may wait for its client."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The greatest number of connections, and how long each may wait for its client."""

    connections: int = 2000
    connections_per_peer: int = 500
    request_seconds: float = 20.0  # from the first byte of a request to its last, and from the connection to the first byte
    idle_seconds: float = 60.0  # after an answer, until the next request begins
    answer_seconds: float = 60.0  # until the client has taken the whole answer

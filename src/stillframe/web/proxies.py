"""Proxies in front of a service: which ones are believed about their clients, and what they say.

Only what a configured proxy adds counts: in X-Forwarded-For the last address that is not such a proxy, in X-Forwarded-Proto the
last word. Everything before that came from the client, who may write anything.
"""

import ipaddress
from collections.abc import Sequence
from typing import Any

MOST_IN_A_ROW = 8  # proxies in a row; a client may send thousands of addresses that look like theirs
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Proxies:
    """The networks of the trusted proxies."""

    def __init__(self, networks: Sequence[str] = ()) -> None:
        """Raises ValueError for an entry that is neither an address nor a network."""
        self._networks = [ipaddress.ip_network(each) for each in networks]

    def __contains__(self, peer: str) -> bool:
        address = _address(peer)
        return address is not None and any(address in network for network in self._networks)

    def client(self, peer: str, forwarded_for: str) -> str:
        """Returns the address of the client behind ``peer``, a proxy; the proxy's own if it does not name one."""
        client = peer
        for said in reversed(forwarded_for.rsplit(",", MOST_IN_A_ROW)[-MOST_IN_A_ROW:]):
            address = _address(said)
            if address is None:
                break
            client = str(address)
            if client not in self:
                break
        return client

    def tell(self, environ: dict[str, Any]) -> None:
        """Replaces the proxy by its client, and the scheme by the one the client used, in the environment of a request."""
        peer = environ["REMOTE_ADDR"]
        if peer not in self:
            return
        environ["REMOTE_ADDR"] = environ["REMOTE_HOST"] = self.client(peer, environ.get("HTTP_X_FORWARDED_FOR", ""))
        scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").rpartition(",")[2].strip().lower()
        if scheme in ("http", "https"):
            environ["wsgi.url_scheme"] = scheme


def _address(text: str) -> Address | None:
    """An IPv4-mapped IPv6 address counts as IPv4. Nginx and haproxy send no port; if another proxy does, it is left out."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address

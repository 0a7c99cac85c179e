"""Decides who counts as one peer."""

import ipaddress


def network_of(peer: str) -> str:
    """Returns the address as text; for IPv6 the /64 network, because one host can send from all of it."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((int(address) >> 64 << 64, 64)))

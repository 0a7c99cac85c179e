"""Who counts as one peer."""

import ipaddress


def network_of(peer: str) -> str:
    """Returns the address as text, of IPv6 the /64 network: one host has all of it to send from."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((int(address) >> 64 << 64, 64)))

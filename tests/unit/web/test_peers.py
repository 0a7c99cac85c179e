"""Who counts as one peer."""

import pytest

from stillframe.web.peers import network_of


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("localhost", "localhost"),
    ],
)
def test_a_host_of_ipv6_is_its_whole_network(peer: str, network: str) -> None:
    assert network_of(peer) == network

"""What a proxy says is believed as far as proxies said it."""

from typing import Any

import pytest

from stillframe.web import proxies
from stillframe.web.proxies import Proxies

PROXIES = Proxies(["10.0.0.0/24", "192.0.2.7", "fd00::/64"])


@pytest.mark.parametrize(
    ("peer", "known"),
    [
        ("10.0.0.9", True),
        ("::ffff:10.0.0.9", True),
        ("10.0.1.9", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("fd00::5", True),
        ("fd00:0:0:1::5", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_who_is_one(peer: str, known: bool) -> None:
    assert (peer in PROXIES) is known
    assert peer not in Proxies()


@pytest.mark.parametrize(
    ("said", "client"),
    [
        ("", "10.0.0.9"),
        ("198.51.100.4", "198.51.100.4"),
        ("1.1.1.1, 198.51.100.4", "198.51.100.4"),  # the first was written by the client
        ("198.51.100.4, 10.0.0.3", "198.51.100.4"),  # two proxies
        ("1.1.1.1, 10.0.0.3,192.0.2.7", "1.1.1.1"),
        ("10.0.0.3", "10.0.0.3"),
        ("1.1.1.1, nonsense", "10.0.0.9"),
        ("nonsense, 10.0.0.3", "10.0.0.3"),
        ("2001:db8::5", "2001:db8::5"),
        ("[2001:db8::5]:443", "2001:db8::5"),
        ("198.51.100.4:7000", "198.51.100.4"),
        ("::ffff:198.51.100.4", "198.51.100.4"),
    ],
)
def test_the_client_is_the_last_that_is_no_proxy(said: str, client: str) -> None:
    assert PROXIES.client("10.0.0.9", said) == client


def test_of_thousands_of_addresses_that_look_like_proxies_few_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done in the thread that reads for everybody."""
    looked_at: list[str] = []
    real = proxies._address

    def counted(text: str) -> proxies.Address | None:
        looked_at.append(text)
        return real(text)

    monkeypatch.setattr(proxies, "_address", counted)
    assert PROXIES.client("10.0.0.9", ",".join(["10.0.0.3"] * 8000)) == "10.0.0.3"
    assert len(looked_at) < 20


def told(peer: str, **headers: str) -> dict[str, Any]:
    environ: dict[str, Any] = {"REMOTE_ADDR": peer, "REMOTE_HOST": peer, "wsgi.url_scheme": "http", **headers}
    PROXIES.tell(environ)
    return environ


def test_only_a_proxy_is_believed() -> None:
    said = {"HTTP_X_FORWARDED_FOR": "198.51.100.4", "HTTP_X_FORWARDED_PROTO": "https"}
    believed, not_believed = told("10.0.0.9", **said), told("10.0.1.9", **said)
    assert (believed["REMOTE_ADDR"], believed["wsgi.url_scheme"]) == ("198.51.100.4", "https")
    assert (not_believed["REMOTE_ADDR"], not_believed["wsgi.url_scheme"]) == ("10.0.1.9", "http")


@pytest.mark.parametrize(
    ("proto", "scheme"),
    [("https", "https"), ("HTTPS", "https"), ("http, https", "https"), ("https, http", "http"), ("x", "http")],
)
def test_the_scheme_is_the_last_that_was_said(proto: str, scheme: str) -> None:
    assert told("10.0.0.9", HTTP_X_FORWARDED_PROTO=proto)["wsgi.url_scheme"] == scheme

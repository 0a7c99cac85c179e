"""Where a service says it is reached."""

from pathlib import Path
from typing import Any

import pytest

from stillframe.errors import BadConfiguration
from stillframe.main import endpoints
from tests.support.certificates import Authority
from tests.unit.builders import settings


def test_a_service_is_where_it_listens(tmp_path: Path) -> None:
    assert endpoints.url(settings(tmp_path), "compute", 8774) == "http://127.0.0.1:8774/v2.1"
    for listen, host in (("192.0.2.1", "192.0.2.1"), ("::1", "[::1]"), ("::", "[::]"), ("localhost", "localhost")):
        assert endpoints.url(settings(tmp_path, listen=listen), "volumes", 8776) == f"http://{host}:8776/v3"


def test_with_a_certificate_it_says_https(tmp_path: Path) -> None:
    pair = Authority(tmp_path).pair("server")
    configured = settings(tmp_path, tls_certificate=str(pair.certificate), tls_key=str(pair.key))
    assert endpoints.url(configured, "volumes", 8776) == "https://127.0.0.1:8776/v3"
    assert endpoints.certificates(configured, "volumes") is not None
    assert endpoints.certificates(configured, "compute") is None


@pytest.mark.parametrize("alone", ["tls_certificate", "tls_key", "tls_client_cafile"])
def test_a_certificate_and_its_key_belong_together(tmp_path: Path, alone: str) -> None:
    options: dict[str, Any] = {alone: "/etc/ssl/some.pem"}
    with pytest.raises(BadConfiguration, match=r"section \[volumes\].*tls_certificate and tls_key belong together"):
        endpoints.certificates(settings(tmp_path, **options), "volumes")


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ("https://cloud.example.org:8776", "https://cloud.example.org:8776/v3"),
        ("https://cloud.example.org/volume/", "https://cloud.example.org/volume/v3"),
        ("http://[2001:db8::1]", "http://[2001:db8::1]/v3"),
    ],
)
def test_what_is_configured_is_said(tmp_path: Path, said: str, url: str) -> None:
    assert endpoints.url(settings(tmp_path, public_endpoint=said), "volumes", 1) == url


@pytest.mark.parametrize(
    "said",
    ["cloud.example.org", "ftp://a", "https://", "https://a/v3", "https://a/v3/", "https://a?b", "https://u@a", "https://a#b"],
)
def test_what_is_no_endpoint_is_refused(tmp_path: Path, said: str) -> None:
    with pytest.raises(BadConfiguration, match=r"public_endpoint of section \[volumes\]"):
        endpoints.public(settings(tmp_path, public_endpoint=said), "volumes")

"""What is wrong with a certificate or its key is told at the start, by name, and a reload never takes a worse one."""

import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from stillframe.errors import BadConfiguration
from stillframe.web.certificates import Certificates
from tests.support.certificates import Authority, Pair, write_key


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.pair("server")


def read(pair: Pair, clients: Path | None = None) -> Certificates:
    return Certificates("volumes", pair.certificate, pair.key, clients)


def test_a_certificate_with_its_key_is_taken(pair: Pair) -> None:
    context = read(pair).context
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert {each["protocol"] for each in context.get_ciphers()} == {"TLSv1.2", "TLSv1.3"}
    assert all("RSA_WITH" not in each["name"] and "DHE-RSA" not in each["name"][:7] for each in context.get_ciphers())
    assert context.verify_mode == ssl.CERT_NONE


def test_clients_may_have_to_show_a_certificate(authority: Authority, pair: Pair) -> None:
    assert read(pair, authority.cafile).context.verify_mode == ssl.CERT_REQUIRED


def other_key(authority: Authority, pair: Pair) -> Pair:
    return Pair(pair.certificate, authority.pair("other").key)


def encrypted(_authority: Authority, pair: Pair) -> Pair:
    write_key(pair.key, ec.generate_private_key(ec.SECP256R1()), b"secret")
    return pair


def expired(authority: Authority, _pair: Pair) -> Pair:
    return authority.pair("old", days=-1)


def for_clients(authority: Authority, _pair: Pair) -> Pair:
    return authority.pair("client", for_servers=False)


def missing(_authority: Authority, pair: Pair) -> Pair:
    return Pair(pair.certificate.with_name("nobody.pem"), pair.key)


def missing_key(_authority: Authority, pair: Pair) -> Pair:
    return Pair(pair.certificate, pair.key.with_name("nobody.key"))


def garbage(_authority: Authority, pair: Pair) -> Pair:
    pair.certificate.write_text("no certificate\n")
    return pair


def directory(_authority: Authority, pair: Pair) -> Pair:
    return Pair(pair.certificate.parent, pair.key)


def fifo(_authority: Authority, pair: Pair) -> Pair:
    os.mkfifo(pair.key.with_name("fifo"), 0o600)
    return Pair(pair.certificate, pair.key.with_name("fifo"))


def open_key(_authority: Authority, pair: Pair) -> Pair:
    pair.key.chmod(0o604)
    return pair


def foreign_key(_authority: Authority, pair: Pair) -> Pair:
    os.chown(pair.key, 65534, -1)
    return pair


def writable(_authority: Authority, pair: Pair) -> Pair:
    pair.certificate.chmod(0o664)
    return pair


def foreign_link(_authority: Authority, pair: Pair) -> Pair:
    link = pair.key.with_name("link")
    link.symlink_to(pair.key)
    os.lchown(link, 65534, -1)
    return Pair(pair.certificate, link)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (other_key, r"tls_certificate of section \[volumes\]: .*server\.pem: the key .*other\.key does not belong to its"),
        (encrypted, r"tls_key of section \[volumes\]: .*server\.key: it is encrypted"),
        (expired, r"old\.pem: a client refuses it: certificate has expired"),
        (for_clients, r"client\.pem: a client refuses it: unsuitable certificate purpose"),
        (missing, r"tls_certificate .*nobody\.pem cannot be read: No such file"),
        (missing_key, r"tls_key .*nobody\.key cannot be read: No such file"),
        (garbage, r"server\.pem: it and the key .* cannot be used .*PEM"),
        (directory, r"tls_certificate .* is not a file"),
        (fifo, r"tls_key .*fifo is not a file"),
        (open_key, r"tls_key .*server\.key: everybody on this host may open it; give it mode 0600"),
        (foreign_key, r"tls_key .*server\.key belongs to user 65534"),
        (writable, r"tls_certificate .*users other than its owner may write to"),
        (foreign_link, r"tls_key .*link is a symbolic link of user 65534"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    authority: Authority, pair: Pair, make: Callable[[Authority, Pair], Pair], told: str
) -> None:
    with pytest.raises(BadConfiguration, match=told):
        read(make(authority, pair))


def test_links_of_our_own_are_followed_as_certbot_makes_them(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    live = tmp_path / "live"
    live.mkdir()
    for name, file in (("fullchain.pem", pair.certificate), ("privkey.pem", pair.key)):
        (live / name).symlink_to(file)
    assert read(Pair(live / "fullchain.pem", live / "privkey.pem")).context


def test_no_certificates_of_clients_issuers_are_told(pair: Pair) -> None:
    with pytest.raises(BadConfiguration, match=r"tls_client_cafile .*server\.key: it holds no certificates"):
        read(pair, pair.key)


def test_a_reload_takes_what_is_good_and_keeps_what_was(
    authority: Authority, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    made = read(pair)
    first = made.context
    made.read_again()
    second = made.context
    assert second is not first
    pair.certificate.write_bytes(authority.pair("old", days=-1).certificate.read_bytes())
    made.read_again()
    assert made.context is second
    assert "the former certificate stays in use: tls_certificate of section [volumes]" in caplog.text

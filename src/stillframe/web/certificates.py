"""Loads the certificate that a service shows, with its key: checked like a secret, tried out before anybody connects, and read
again on demand.

This is Python's ssl over OpenSSL 3: TLS 1.2 and 1.3, forward secrecy, AEAD ciphers. There is no finite-field key exchange,
which costs a server much more than its client (CVE-2002-20001), and no renegotiation.
"""

import logging
import os
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stillframe import trust
from stillframe.errors import BadConfiguration

LOG = logging.getLogger(__name__)
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # for TLS 1.2; all ciphers of TLS 1.3 are of this kind


class Certificates:
    """What a listening socket needs for TLS. ``context`` is for new connections; open connections keep theirs."""

    def __init__(self, section: str, certificate: Path, key: Path, clients: Path | None = None) -> None:
        """``section`` is the section of the configuration, for messages. ``clients`` is a file of CA certificates: only clients
        with a certificate from one of these CAs are accepted. Raises BadConfiguration."""
        self._section = section
        self._certificate, self._key, self._clients = certificate, key, clients
        self.context = self._read()

    def read_again(self) -> None:
        """Reads the files again. If something is wrong with them, that is logged and the former ones stay in use."""
        try:
            self.context = self._read()
            LOG.info("[%s]: %s is used from now on", self._section, self._certificate)
        except BadConfiguration as error:
            LOG.error("the former certificate stays in use: %s", error.message)

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CIPHERS)
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_alpn_protocols(["http/1.1"])
        with self._opened("tls_certificate", self._certificate) as shown, self._opened("tls_key", self._key) as key:
            if os.fstat(key).st_mode & stat.S_IRWXO:
                raise self._wrong("tls_key", self._key, "everybody on this host may open it; give it mode 0600")
            self._load(context, shown, key)
            self._try_out(context, shown)
        if self._clients is not None:
            with self._opened("tls_client_cafile", self._clients) as trusted:
                try:
                    context.load_verify_locations(_by_number(trusted))
                except ssl.SSLError as error:
                    raise self._wrong(
                        "tls_client_cafile", self._clients, f"it holds no certificates ({error.reason})"
                    ) from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    @contextmanager
    def _opened(self, option: str, path: Path) -> Iterator[int]:
        """Opens the file behind links that are ours or root's, as certbot makes them; the file that was checked is the one that
        is read."""
        what = f"{option} of section [{self._section}]"
        path = trust.resolved(path, what)
        trust.require_way(path, what)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise BadConfiguration(f"{what}: {path} cannot be read: {error.strerror}") from error
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise BadConfiguration(f"{what}: {path} is not a file")
            yield handle
        finally:
            os.close(handle)

    def _load(self, context: ssl.SSLContext, shown: int, key: int) -> None:
        def no_password() -> str:  # otherwise OpenSSL would ask at the terminal, and wait
            raise self._wrong(
                "tls_key", self._key, "it is encrypted, but a service that starts can ask nobody for the password"
            )

        try:
            context.load_cert_chain(_by_number(shown), _by_number(key), no_password)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH" or error.reason == "KEY_TYPE_MISMATCH":
                why = f"the key {self._key} does not belong to its first certificate"
            else:
                why = f"it and the key {self._key} cannot be used ({error.reason or error}); both must be PEM"
            raise self._wrong("tls_certificate", self._certificate, why) from error

    def _try_out(self, context: ssl.SSLContext, shown: int) -> None:
        """Makes a handshake with ourselves, in memory: a client tells best whether the certificate is valid now, and for
        servers."""
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # trusts the certificates of the file itself
        client.load_verify_locations(_by_number(shown))
        try:
            found = _between(context, client)
        except ssl.SSLCertVerificationError as error:
            raise self._wrong("tls_certificate", self._certificate, f"a client refuses it: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise self._wrong("tls_certificate", self._certificate, f"no TLS 1.2 or 1.3 with it ({error.reason})") from error
        LOG.info("[%s]: the certificate %s ends %s", self._section, self._certificate, found.get("notAfter"))

    def _wrong(self, option: str, path: Path, why: str) -> BadConfiguration:
        return BadConfiguration(f"{option} of section [{self._section}]: {path}: {why}")


def _by_number(handle: int) -> str:
    os.lseek(handle, 0, os.SEEK_SET)
    return f"/proc/self/fd/{handle}"


def _between(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
    """Returns what a client sees of the server's certificate. Raises the SSLError of the side that refuses."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours, theirs = server.wrap_bio(there, back, server_side=True), client.wrap_bio(back, there)
    for _ in range(4):  # the longest handshake has fewer flights
        for side in (theirs, ours):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return dict(theirs.getpeercert() or {})

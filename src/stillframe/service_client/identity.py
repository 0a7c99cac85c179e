"""Signs in at Keystone as a service user. The password is in a file of its own; no message ever contains it."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from keystoneauth1 import access, exceptions
from keystoneauth1 import session as ks_session
from keystoneauth1.identity import v3

from stillframe.errors import BadConfiguration
from stillframe.service_client.bounded import bounded

_REQUIRED = ("auth_url", "username", "password_file", "project_name")


@dataclass(frozen=True)
class Identity:
    """The user as whom a service acts. ``auth_url`` ends in /v3; ``section`` is the section of the configuration, for
    messages."""

    section: str
    auth_url: str
    username: str
    password_file: Path
    user_domain_name: str
    project_name: str
    project_domain_name: str
    cafile: str | None
    timeout_seconds: int


def from_options(section: str, options: Any) -> Identity:
    """Reads an identity from a section of the configuration. Raises BadConfiguration, which names what is missing."""
    missing = [name for name in _REQUIRED if not getattr(options, name)]
    if missing:
        raise BadConfiguration(f"section [{section}] of the configuration lacks {', '.join(missing)}")
    url = options.auth_url.rstrip("/")
    return Identity(
        section=section,
        auth_url=url if url.endswith("/v3") else f"{url}/v3",
        username=options.username,
        password_file=Path(options.password_file),
        user_domain_name=options.user_domain_name,
        project_name=options.project_name,
        project_domain_name=options.project_domain_name,
        cafile=options.cafile,
        timeout_seconds=options.timeout_seconds,
    )


def sign_in(identity: Identity) -> ks_session.Session:
    """Returns a session that gets and renews tokens by itself; nothing is sent yet. It never follows a redirect.

    Raises BadConfiguration when the password cannot be read, or when everybody on this host can read it.
    """
    auth = _Password(
        auth_url=identity.auth_url,
        username=identity.username,
        password=_password(identity),
        user_domain_name=identity.user_domain_name,
        project_name=identity.project_name,
        project_domain_name=identity.project_domain_name,
    )
    return bare_session(identity.cafile, identity.timeout_seconds, auth)


def catalog_url(session: ks_session.Session, kind: str, region: str | None) -> str | None:
    """Returns the URL of a service of this kind from Keystone's catalog; None when the catalog has none. Raises
    ClientException."""
    with _reading("its catalog cannot be read"):
        found = session.get_endpoint(
            service_type=kind, interface=["internal", "public"], region_name=region, skip_discovery=True
        )
        parts = urlsplit(found or "")
    if found and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise exceptions.ClientException(
            f"its catalog has {found[:200]!r} for the {kind} service, which is not the URL of a service"
        )
    return found


class _Password(v3.Password):
    """Signs in. An answer of Keystone that is not a complete token is an error of the answer."""

    def get_auth_ref(self, session: ks_session.Session) -> access.AccessInfoV3:
        """Raises ClientException. For a token without an expiry the library itself fails only when the token is used again."""
        with _reading("its answer is not a token"):
            found = super().get_auth_ref(session)
            found.will_expire_soon()
        return found


@contextmanager
def _reading(flaw: str) -> Iterator[None]:
    """Turns every error that the library (keystoneauth1 5.18) meets in Keystone's answer into an error of Keystone. Raises
    ClientException."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        raise exceptions.ClientException(flaw) from error


def bare_session(cafile: str | None, seconds: float, auth: v3.Password | None = None) -> ks_session.Session:
    """Returns a session that follows no redirect, because only the operator chooses where we send credentials and whom we
    believe. Its answers are limited."""
    return ks_session.Session(auth=auth, session=bounded(), verify=cafile or True, timeout=seconds, redirect=False)


def _password(identity: Identity) -> str:
    path, option = identity.password_file, f"password_file of section [{identity.section}]"
    try:
        with path.open("rb") as file:
            mode, content = os.fstat(file.fileno()).st_mode, file.read(4097)
    except OSError as error:
        raise BadConfiguration(f"{option}: {path} cannot be read: {error.strerror}") from error
    if mode & (stat.S_IRWXO):
        raise BadConfiguration(f"{option}: {path} is readable by everybody on this host; give it mode 0600")
    try:
        password = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise BadConfiguration(f"{option}: {path} is not text") from None
    if not password or len(content) > 4096:
        raise BadConfiguration(f"{option}: {path} must hold one password and nothing else")
    return password

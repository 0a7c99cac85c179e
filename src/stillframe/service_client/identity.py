"""Signing in at Keystone as a service user. The password stands in a file of its own; no message ever holds it."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keystoneauth1 import session as ks_session
from keystoneauth1.identity import v3

from stillframe.errors import BadConfiguration

_REQUIRED = ("auth_url", "username", "password_file", "project_name")


@dataclass(frozen=True)
class Identity:
    """As whom a service acts. ``auth_url`` ends in /v3; ``section`` is the configuration's, for messages."""

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
    """Reads an identity from a section of the configuration. Raises BadConfiguration naming what is missing."""
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
    """Returns a session that gets and renews tokens by itself; nothing is sent yet. Redirects are never followed.

    Raises BadConfiguration when the password cannot be read or anybody on this host can read it.
    """
    auth = v3.Password(
        auth_url=identity.auth_url,
        username=identity.username,
        password=_password(identity),
        user_domain_name=identity.user_domain_name,
        project_name=identity.project_name,
        project_domain_name=identity.project_domain_name,
    )
    return bare_session(identity.cafile, identity.timeout_seconds, auth)


def bare_session(cafile: str | None, seconds: float, auth: v3.Password | None = None) -> ks_session.Session:
    """A session that follows no redirect: where we send credentials and whom we believe is the operator's choice alone."""
    return ks_session.Session(auth=auth, verify=cafile or True, timeout=seconds, redirect=False)


def _password(identity: Identity) -> str:
    path, option = identity.password_file, f"password_file of section [{identity.section}]"
    try:
        with path.open("rb") as file:
            mode, content = os.fstat(file.fileno()).st_mode, file.read(4097)
    except OSError as error:
        raise BadConfiguration(f"{option}: {path} cannot be read: {error.strerror}") from error
    if mode & (stat.S_IRWXO):
        raise BadConfiguration(f"{option}: {path} is open to everybody on this host; give it mode 0600")
    try:
        password = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise BadConfiguration(f"{option}: {path} is not text") from None
    if not password or len(content) > 4096:
        raise BadConfiguration(f"{option}: {path} must hold one password and nothing else")
    return password

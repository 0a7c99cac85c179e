"""Where clients reach a service, and the certificate it shows there."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stillframe.config import Settings
from stillframe.errors import BadConfiguration
from stillframe.web.certificates import Certificates

_VERSIONS = {"volumes": "/v3", "compute": "/v2.1"}


def certificates(settings: Settings, service: str) -> Certificates | None:
    """Returns the certificate of "volumes" or "compute", read and tried out; None: the service speaks plain HTTP. Raises
    BadConfiguration."""
    own = _section(settings, service)
    if not own.tls_certificate and not own.tls_key and not own.tls_client_cafile:
        return None
    if not own.tls_certificate or not own.tls_key:
        raise BadConfiguration(f"section [{service}] of the configuration: tls_certificate and tls_key belong together")
    clients = Path(own.tls_client_cafile) if own.tls_client_cafile else None
    return Certificates(service, Path(own.tls_certificate), Path(own.tls_key), clients)


def url(settings: Settings, service: str, port: int) -> str:
    """Returns the endpoint of "volumes" or "compute", with its version: the configured one, else that of the address it listens
    on. Raises BadConfiguration."""
    own = _section(settings, service)
    host = f"[{own.listen}]" if ":" in own.listen else own.listen
    bound = f"{'https' if own.tls_certificate else 'http'}://{host}:{port}"
    return (public(settings, service) or bound) + _VERSIONS[service]


def public(settings: Settings, service: str) -> str | None:
    """Returns ``public_endpoint`` without a slash at the end. Raises BadConfiguration when it is not the URL of a service."""
    said: str | None = _section(settings, service).public_endpoint
    if not said:
        return None
    found = said.rstrip("/")
    parts = urlsplit(found)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise BadConfiguration(
            f"public_endpoint of section [{service}]: {said!r} is not the URL of a service, such as https://cloud.example.org:8776"
        )
    if found.endswith(_VERSIONS[service]):
        raise BadConfiguration(
            f"public_endpoint of section [{service}]: leave out {_VERSIONS[service]}; the service adds the version itself"
        )
    return found


def _section(settings: Settings, service: str) -> Any:
    return settings.volumes if service == "volumes" else settings.compute

"""The credentials that the services use with each other, and the clouds.yaml that people use."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stillframe.config import Settings
from stillframe.errors import BadConfiguration
from stillframe.service_client.identity import from_options
from stillframe.service_client.session import Endpoint

SERVICE_FILE = "service.yaml"
# The other service has not been started yet. Its socket is known; only the path of the URL is used then.
_NOT_SAID = {"volume": "http://localhost/v3", "compute": "http://localhost/v2.1"}
_MICROVERSION = {"volume": "3.71", "compute": "2.100"}


def service_endpoint(settings: Settings, service: str) -> Endpoint:
    """Returns how one of our services calls the other, which is ``service``: "volume" or "compute"."""
    path = settings.state_dir / SERVICE_FILE
    try:
        known: dict[str, str] = yaml.safe_load(path.read_text())
    except OSError as error:
        raise BadConfiguration(f"the services' credentials {path} cannot be read: {error}") from error
    url = known[service] or _NOT_SAID[service]
    trusted: str | None = None
    socket: Path | None = settings.api_socket("volumes" if service == "volume" else service)
    if service == "volume" and settings.compute.storage_endpoint:
        url, socket, trusted = settings.compute.storage_endpoint, None, settings.cafile
    identity = from_options("keystone", settings.keystone) if settings.auth.strategy == "keystone" else None
    return Endpoint(service, url, known["username"], known["password"], _MICROVERSION[service], identity, socket, trusted)


def write_private(path: Path, document: Any) -> None:
    """Writes a YAML file that only its owner can read (0600), and replaces it atomically."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)  # left by a process that died
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w") as file:
        yaml.safe_dump(document, file, sort_keys=False)
    os.replace(temporary, path)


def new_password() -> str:
    return secrets.token_urlsafe(24)


def cloud(urls: Mapping[str, str], username: str, password: str) -> dict[str, Any]:
    """Returns the entry of clouds.yaml that an unmodified ``openstack`` command can use without Keystone. ``urls`` are those of
    the known services, by "volume" and "compute"; there is at least one."""
    return {
        "auth_type": "http_basic",
        "auth": {"endpoint": next(iter(urls.values())), "username": username, "password": password},
        **_overrides(urls),
    }


def keystone_cloud(urls: Mapping[str, str], auth_url: str) -> dict[str, Any]:
    """Returns the entry of clouds.yaml for users of Keystone; their name and password come from the environment."""
    return {"auth": {"auth_url": auth_url}, **_overrides(urls)}


def _overrides(urls: Mapping[str, str]) -> dict[str, str]:
    names = {"volume": ("block_storage", "volume"), "compute": ("compute",)}
    return {f"{name}_endpoint_override": url for service, url in urls.items() for name in names[service]}

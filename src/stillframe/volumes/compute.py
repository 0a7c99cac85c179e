"""Block storage's door to compute: its public REST API, as the service user."""

from typing import Any

from stillframe.client.credentials import service_endpoint
from stillframe.client.session import Session
from stillframe.config import Settings


class ComputeDoor:
    """Asks compute what libvirt's live and inactive descriptions say."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: Session | None = None

    def servers_with(self, volume_id: str) -> list[str]:
        """Returns the servers whose live or inactive description names the volume. Raises ServiceUnavailable."""
        if self._session is None:
            self._session = Session(service_endpoint(self._settings, "compute"))
        found: list[dict[str, Any]] = []
        path: str | None = "/servers/detail?all_tenants=1"
        while path is not None:
            page = self._session.call("GET", path)
            found += page["servers"]
            links = page.get("servers_links", [])
            path = f"/servers/detail?{links[0]['href'].partition('?')[2]}" if links else None
        return [
            server["id"]
            for server in found
            if any(volume["id"] == volume_id for volume in server["os-extended-volumes:volumes_attached"])
        ]

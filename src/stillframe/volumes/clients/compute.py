"""Block storage's client of compute: its public REST API, as the service user."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from stillframe.client import listing
from stillframe.config import Settings
from stillframe.errors import NotFound
from stillframe.service_client.credentials import service_endpoint
from stillframe.service_client.session import Session


class ComputeClient:
    """Asks compute what libvirt's live and inactive descriptions say."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: Session | None = None

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        if self._session is None:
            self._session = Session(service_endpoint(self._settings, "compute"))
        return self._session.call(method, path, body)

    def server_of(self, volume_id: str) -> dict[str, Any] | None:
        """Returns ``{"id", "active", "file", "state", "refusal", "merge_bandwidth_mib", "set_id"}`` of the server that has the
        volume, or None; ``refusal`` says why its files must be left alone in the state the server is in, and what to do;
        ``set_id`` is a set that takes the volume natively now. Raises ServiceUnavailable."""
        try:
            found: dict[str, Any] = self._call("GET", f"/os-assisted-volumes/{volume_id}")["server"]
        except NotFound:
            return None
        return found

    def named_files(self, directory: Path, sure: bool = False) -> dict[str, list[str]]:
        """Returns the servers any of whose descriptions, live, inactive or saved, names a file of the directory, by the
        file's name. Raises ServiceUnavailable; with ``sure`` also while a saved memory does not tell which files it needs."""
        asked = f"directory={quote(str(directory), safe='')}{'&sure=1' if sure else ''}"
        found: dict[str, list[str]] = self._call("GET", f"/os-assisted-volumes?{asked}")["files"]
        return found

    def users_of(self, volume_id: str) -> list[dict[str, str]]:
        """Returns ``{"server_id", "name", "where"}`` of every description that names the volume, saved ones too, and of every
        server that it is being attached to, with the ``where`` "attaching". Raises ServiceUnavailable."""
        found: list[dict[str, str]] = self._call("GET", f"/os-assisted-volumes/{volume_id}/users")["users"]
        return found

    def has_server(self, project_id: str, server_id: str) -> bool:
        """Tells whether the server is one of the project's. It takes as long for one of another project as for none: the
        project's servers are asked for. Raises ServiceUnavailable."""
        path = f"/servers/detail?all_tenants=1&project_id={quote(project_id, safe='')}"
        found = listing.whole(lambda page: self._call("GET", page), path, "servers")
        return any((server["id"], server["tenant_id"]) == (server_id, project_id) for server in found)

    def resize(self, volume_id: str, size: int) -> None:
        self._call("POST", f"/os-assisted-volumes/{volume_id}/action", {"resize": {"size": size}})

    def switch_file(self, volume_id: str, name: str, format_: str, to_come: bool = False) -> None:
        """Lets the definition of the stopped server name another file, with ``to_come`` one that is about to get that name.
        Raises Conflict when it runs."""
        wanted = {"switch_file": {"name": name, "format": format_, "to_come": to_come}}
        self._call("POST", f"/os-assisted-volumes/{volume_id}/action", wanted)

    def merge(self, snapshot_id: str, delete_info: dict[str, Any]) -> None:
        """Nova's call. With an ``id`` it may be repeated and asked about."""
        query = quote(json.dumps(delete_info), safe="")
        self._call("DELETE", f"/os-assisted-volume-snapshots/{snapshot_id}?delete_info={query}")

    def merge_status(self, merge_id: str) -> dict[str, Any] | None:
        """Returns ``{"status", "bytes_done", "bytes_total", "fault"}``; None for one that was never asked for."""
        try:
            found: dict[str, Any] = self._call("GET", f"/os-assisted-volume-snapshots/{merge_id}")["merge"]
        except NotFound:
            return None
        return found

    def cancel_merge(self, merge_id: str) -> None:
        self._call("POST", f"/os-assisted-volume-snapshots/{merge_id}/action", {"cancel": {}})

    def servers_with(self, volume_id: str) -> list[str]:
        """Returns the servers whose live or inactive description names the volume. Raises ServiceUnavailable."""
        found = listing.whole(lambda path: self._call("GET", path), "/servers/detail?all_tenants=1", "servers")
        return [
            server["id"]
            for server in found
            if any(volume["id"] == volume_id for volume in server["os-extended-volumes:volumes_attached"])
        ]

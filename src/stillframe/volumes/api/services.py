"""/os-services, /os-availability-zone and the short lists clients ask for by the way."""

from datetime import UTC, datetime
from typing import Any

from stillframe.db import services
from stillframe.web.observe import SILENT_AFTER_SECONDS
from stillframe.web.route import Call, Route


def list_services(call: Call) -> dict[str, Any]:
    with call.door.database.read() as connection:
        rows = [row for row in services.list_all(connection) if row["binary"] == "stillframe-volumes"]
    return {"services": [_service(call, row) for row in rows if row["host"] == call.query.get("host", row["host"])]}


def _service(call: Call, row: dict[str, Any]) -> dict[str, Any]:
    up = row["silent_seconds"] < SILENT_AFTER_SECONDS
    seen = datetime.fromtimestamp(row["seen_at"], UTC).replace(tzinfo=None)
    return {
        "binary": row["binary"],
        "host": f"{row['host']}@local",
        "zone": call.door.settings.availability_zone,
        "status": "enabled",
        "state": "up" if up else "down",
        "updated_at": seen.isoformat(timespec="microseconds"),
        "disabled_reason": row["disabled_reason"],
        **({"cluster": None} if call.version >= (3, 7) else {}),
        **({"backend_state": "up" if up else "down"} if call.version >= (3, 49) else {}),
    }


def list_zones(call: Call) -> dict[str, Any]:
    zone = {"zoneName": call.door.settings.availability_zone, "zoneState": {"available": True}}
    return {"availabilityZoneInfo": [zone]}


def list_extensions(_call: Call) -> dict[str, Any]:
    return {"extensions": []}


ROUTES = (
    Route("GET", "/os-services", list_services, "volume_extension:services:index"),
    Route("GET", "/os-availability-zone", list_zones, "volume:availability_zone_list"),
    Route("GET", "/extensions", list_extensions, "volume:availability_zone_list"),
)

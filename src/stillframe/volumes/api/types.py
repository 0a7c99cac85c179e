"""/types: the kinds of volume there are."""

from typing import Any

from stillframe.db import volume_types
from stillframe.db.rows import Row
from stillframe.errors import NotFound
from stillframe.web.route import Call, Route


def _view(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "description": row["description"],
        "is_public": True,
        "os-volume-type-access:is_public": True,
        "qos_specs_id": None,
        "extra_specs": row["extra_specs"],
    }


def list_all(call: Call) -> dict[str, Any]:
    with call.door.database.read() as connection:
        return {"volume_types": [_view(row) for row in volume_types.list_all(connection)]}


def _read(call: Call) -> Row:
    with call.door.database.read() as connection:
        row = volume_types.find(connection, call.path["id"])
    if row is None:
        raise NotFound(f"Volume type {call.path['id']} could not be found.")
    return row


def show(call: Call) -> dict[str, Any]:
    return {"volume_type": _view(_read(call))}


def extra_specs(call: Call) -> dict[str, Any]:
    return {"extra_specs": _read(call)["extra_specs"]}


ROUTES = (
    Route("GET", "/types", list_all, "volume_extension:types"),
    Route("GET", "/types/{id}", show, "volume_extension:types"),
    Route("GET", "/types/{id}/extra_specs", extra_specs, "volume_extension:types"),
)

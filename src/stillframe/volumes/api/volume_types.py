"""/types: the kinds of volume there are."""

from typing import Any

from stillframe.db import volume_types
from stillframe.db.rows import Row
from stillframe.errors import NotFound
from stillframe.volumes.rpcapi import worker
from stillframe.web import body
from stillframe.web.route import Call, Route

_NAME = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\S[^\x00-\x1f]*\Z"}
_SPECS = {
    "type": "object",
    "maxProperties": 128,
    "propertyNames": {"minLength": 1, "maxLength": 255, "pattern": r"^[a-zA-Z0-9\-_:. ]+\Z"},
    "additionalProperties": {"type": "string", "minLength": 1, "maxLength": 255},
}
_COMMON = {"description": body.DESCRIPTION, "os-volume-type-access:is_public": {"type": ["boolean", "null"]}}
_CREATE = body.wrapped(
    "volume_type", {"name": _NAME, **_COMMON, "extra_specs": {**_SPECS, "type": ["object", "null"]}}, ("name",)
)
_UPDATE = body.wrapped(
    "volume_type",
    {
        "name": {**_NAME, "type": ["string", "null"]},
        "description": body.DESCRIPTION,
        "is_public": {"type": ["boolean", "null"]},
    },
    minProperties=1,
)
_EXTRA = {
    "type": "object",
    "properties": {"extra_specs": {**_SPECS, "minProperties": 1}},
    "required": ["extra_specs"],
    "additionalProperties": False,
}
_ONE = {**_SPECS, "minProperties": 1, "maxProperties": 1}


def _view(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "description": row["description"],
        "is_public": row["is_public"],
        "os-volume-type-access:is_public": row["is_public"],
        "qos_specs_id": None,
        "extra_specs": row["extra_specs"],
    }


def list_all(call: Call) -> dict[str, Any]:
    with call.door.database.read() as connection:
        rows = volume_types.list_all(connection)
    return {"volume_types": [_view(row) for row in rows if row["is_public"] or call.context.is_admin]}


def _read(call: Call) -> Row:
    with call.door.database.read() as connection:
        row = volume_types.find(connection, call.path["id"])
    if row is None or not (row["is_public"] or call.context.is_admin):
        raise NotFound(f"Volume type {call.path['id']} could not be found.")
    return row


def show(call: Call) -> dict[str, Any]:
    return {"volume_type": _view(_read(call))}


def create(call: Call) -> dict[str, Any]:
    given = call.body["volume_type"]
    wanted = {"name": given["name"].strip(), "description": given.get("description")}
    public = given.get("os-volume-type-access:is_public")
    wanted |= {"is_public": True if public is None else public, "extra_specs": given.get("extra_specs") or {}}
    type_id = worker(call).create_type(call.context, wanted=wanted)
    with call.door.database.read() as connection:
        row = volume_types.find(connection, type_id)
    assert row is not None
    return {"volume_type": _view(row)}


def update(call: Call) -> dict[str, Any]:
    row = _read(call)
    changes = {key: value for key, value in call.body["volume_type"].items() if value is not None}
    worker(call).update_type(call.context, type_id=row["id"], changes=changes)
    return {"volume_type": _view(_read(call))}


def delete(call: Call) -> None:
    worker(call).delete_type(call.context, type_id=_read(call)["id"])


def extra_specs(call: Call) -> dict[str, Any]:
    return {"extra_specs": _read(call)["extra_specs"]}


def set_extra_specs(call: Call) -> dict[str, Any]:
    specs = call.body["extra_specs"]
    worker(call).set_type_extra_specs(call.context, type_id=_read(call)["id"], specs=specs)
    return {"extra_specs": specs}


def show_extra_spec(call: Call) -> dict[str, Any]:
    specs, key = _read(call)["extra_specs"], call.path["key"]
    if key not in specs:
        raise NotFound(f"Volume Type {call.path['id']} has no extra specs with key {key}.")
    return {key: specs[key]}


def set_extra_spec(call: Call) -> dict[str, Any]:
    worker(call).set_type_extra_specs(call.context, type_id=_read(call)["id"], specs=call.body)
    return dict(call.body)


def delete_extra_spec(call: Call) -> None:
    worker(call).delete_type_extra_spec(call.context, type_id=_read(call)["id"], key=call.path["key"])


_SPEC = "/types/{id}/extra_specs"
ROUTES = (
    Route("GET", "/types", list_all, "volume_extension:types"),
    Route("POST", "/types", create, "volume_extension:type_create", 200, _CREATE),
    Route("GET", "/types/{id}", show, "volume_extension:types"),
    Route("PUT", "/types/{id}", update, "volume_extension:type_update", 200, _UPDATE),
    Route("DELETE", "/types/{id}", delete, "volume_extension:type_delete", 202),
    Route("GET", _SPEC, extra_specs, "volume_extension:types"),
    Route("POST", _SPEC, set_extra_specs, "volume_extension:type_update", 200, _EXTRA),
    Route("GET", f"{_SPEC}/{{key}}", show_extra_spec, "volume_extension:types"),
    Route("PUT", f"{_SPEC}/{{key}}", set_extra_spec, "volume_extension:type_update", 200, _ONE),
    Route("DELETE", f"{_SPEC}/{{key}}", delete_extra_spec, "volume_extension:type_update", 202),
)

"""/types: the kinds of volume there are, and who may use those that are not public."""

from typing import Any

from stillframe.db import volume_types
from stillframe.db.rows import VolumeTypeRow
from stillframe.errors import BadRequest, NotFound
from stillframe.volumes.rpcapi import worker
from stillframe.web import body
from stillframe.web.route import Call, Route

_NAME = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\S[^\x00-\x1f]*\Z"}
_SPECS = {
    "type": "object",
    "maxProperties": 128,
    "propertyNames": {"minLength": 1, "maxLength": 255, "pattern": r"^[a-zA-Z0-9\-_:. /]+\Z"},
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


def _view(row: VolumeTypeRow, changed: str = "") -> dict[str, Any]:
    """As Cinder shows a type: one that was just "created" or "updated" with fewer keys."""
    shown = {
        "id": row["id"],
        "name": row["name"],
        "description": row["description"],
        "is_public": row["is_public"],
        "extra_specs": row["extra_specs"],
    }
    if changed != "updated":
        shown["os-volume-type-access:is_public"] = row["is_public"]
    return shown if changed else {**shown, "qos_specs_id": row["qos_specs_id"]}


def may_use(call: Call, row: VolumeTypeRow) -> bool:
    """Tells whether the caller may know of a type: one that is not public is for administrators and the projects let in."""
    if row["is_public"] or call.context.is_admin:
        return True
    with call.api.database.read() as connection:
        return row["id"] in volume_types.visible(connection, call.context.project_id)


def list_all(call: Call) -> dict[str, Any]:
    """``GET /types``: every volume type, by name."""
    with call.api.database.read() as connection:
        rows = volume_types.list_all(connection)
        let_in = volume_types.visible(connection, call.context.project_id)
    seen = [row for row in rows if row["is_public"] or call.context.is_admin or row["id"] in let_in]
    return {"volume_types": [_view(row) for row in seen]}


def _read(call: Call) -> VolumeTypeRow:
    with call.api.database.read() as connection:
        row = volume_types.find(connection, call.path["id"])
    if row is None or not may_use(call, row):
        raise NotFound(f"Volume type {call.path['id']} could not be found.")
    return row


def show(call: Call) -> dict[str, Any]:
    """``GET /types/{id}``: one volume type by name or id; ``default`` is the built-in one. Raises NotFound."""
    return {"volume_type": _view(_read(call))}


def create(call: Call) -> dict[str, Any]:
    """``POST /types``: makes a volume type. Raises Conflict when the name is taken."""
    given = call.body["volume_type"]
    wanted = {"name": given["name"].strip(), "description": given.get("description")}
    public = given.get("os-volume-type-access:is_public")
    wanted |= {"is_public": True if public is None else public, "extra_specs": given.get("extra_specs") or {}}
    type_id = worker(call).create_type(call.context, wanted=wanted)
    with call.api.database.read() as connection:
        row = volume_types.find(connection, type_id)
    assert row is not None
    return {"volume_type": _view(row, "created")}


def update(call: Call) -> dict[str, Any]:
    """``PUT /types/{id}``: changes name, description or is_public. Raises NotFound, Conflict."""
    row = _read(call)
    changes = {key: value for key, value in call.body["volume_type"].items() if value is not None}
    worker(call).update_type(call.context, type_id=row["id"], changes=changes)
    return {"volume_type": _view(_read(call), "updated")}


def delete(call: Call) -> None:
    """``DELETE /types/{id}``: deletes a type. Raises NotFound, BadRequest while a volume is of it."""
    worker(call).delete_type(call.context, type_id=_read(call)["id"])


def extra_specs(call: Call) -> dict[str, Any]:
    """``GET /types/{id}/extra_specs``: all extra specs of a type. Raises NotFound."""
    return {"extra_specs": _read(call)["extra_specs"]}


def set_extra_specs(call: Call) -> dict[str, Any]:
    """``POST /types/{id}/extra_specs``: adds or changes the keys that are given."""
    specs = call.body["extra_specs"]
    worker(call).set_type_extra_specs(call.context, type_id=_read(call)["id"], specs=specs)
    return {"extra_specs": specs}


def show_extra_spec(call: Call) -> dict[str, Any]:
    """``GET /types/{id}/extra_specs/{key}``: one value. Raises NotFound."""
    specs, key = _read(call)["extra_specs"], call.path["key"]
    if key not in specs:
        raise NotFound(f"Volume Type {call.path['id']} has no extra specs with key {key}.")
    return {key: specs[key]}


def set_extra_spec(call: Call) -> dict[str, Any]:
    """``PUT /types/{id}/extra_specs/{key}``: sets one value. Raises BadRequest when the body names another key."""
    if list(call.body) != [call.path["key"]]:
        raise BadRequest("the key in the body is not the one in the path")
    worker(call).set_type_extra_specs(call.context, type_id=_read(call)["id"], specs=call.body)
    return dict(call.body)


def delete_extra_spec(call: Call) -> None:
    """``DELETE /types/{id}/extra_specs/{key}``: removes one key. Raises NotFound."""
    worker(call).delete_type_extra_spec(call.context, type_id=_read(call)["id"], key=call.path["key"])


def list_access(call: Call) -> dict[str, Any]:
    """``GET /types/{id}/os-volume-type-access``: the projects that may use the type. Raises NotFound for a public one."""
    row = _read(call)
    if row["is_public"]:
        raise NotFound("Access list not available for public volume types.")
    with call.api.database.read() as connection:
        projects = volume_types.projects(connection, row["id"])
    return {"volume_type_access": [{"volume_type_id": row["id"], "project_id": project} for project in projects]}


def add_access(call: Call) -> None:
    """``addProjectAccess``: lets a project use a type that is not public. Raises BadRequest for a public one, Conflict."""
    project = call.body["addProjectAccess"]["project"]
    worker(call).add_type_access(call.context, type_id=_read(call)["id"], project_id=project)


def remove_access(call: Call) -> None:
    """``removeProjectAccess``: lets a project no longer use a type. Raises BadRequest for a public one, NotFound."""
    project = call.body["removeProjectAccess"]["project"]
    worker(call).remove_type_access(call.context, type_id=_read(call)["id"], project_id=project)


def show_encryption(call: Call) -> dict[str, Any]:
    """``GET /types/{id}/encryption``: nothing, as of a type without encryption in Cinder. Raises NotFound."""
    _read(call)
    return {}


def refuse_encryption(call: Call) -> None:
    """``POST /types/{id}/encryption``: always BadRequest: a volume that only says it is encrypted would be worse than none."""
    raise BadRequest(
        f"volume type {_read(call)['name']} stays without encryption: this service does not encrypt volumes. Encrypt in the"
        " guest, or the storage below the share"
    )


def _access(action: str) -> Any:
    return body.wrapped(action, {"project": {"type": "string", "minLength": 1, "maxLength": 255}}, ("project",))


_ENCRYPTION = {
    "type": "object",
    "properties": {"encryption": {"type": "object", "maxProperties": 64}},
    "required": ["encryption"],
    "additionalProperties": False,
}
_SPEC = "/types/{id}/extra_specs"
_ADD, _REMOVE = "addProjectAccess", "removeProjectAccess"
_ACTION = "/types/{id}/action"
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
    Route("GET", "/types/{id}/os-volume-type-access", list_access, "volume_extension:volume_type_access:get_all_for_type"),
    Route("POST", _ACTION, add_access, f"volume_extension:volume_type_access:{_ADD}", 202, _access(_ADD), _ADD),
    Route("POST", _ACTION, remove_access, f"volume_extension:volume_type_access:{_REMOVE}", 202, _access(_REMOVE), _REMOVE),
    Route("GET", "/types/{id}/encryption", show_encryption, "volume_extension:volume_type_encryption:get"),
    Route(
        "POST", "/types/{id}/encryption", refuse_encryption, "volume_extension:volume_type_encryption:create", 200, _ENCRYPTION
    ),
)

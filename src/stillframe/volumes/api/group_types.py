"""/group_types: the kinds of volume group there are, and their group specs."""

from typing import Any

from stillframe.db import group_types
from stillframe.db.group_rows import GroupTypeRow
from stillframe.db.queries import Page
from stillframe.errors import BadRequest, NotFound
from stillframe.volumes.rpcapi import worker
from stillframe.web import body, paging
from stillframe.web.route import Call, Route

_NAME = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\S[^\x00-\x1f]*\Z"}
_SPECS = {
    "type": "object",
    "maxProperties": 128,
    "propertyNames": {"minLength": 1, "maxLength": 255, "pattern": r"^[a-zA-Z0-9\-_:. /]+\Z"},
    "additionalProperties": {"type": "string", "maxLength": 255},
}
_FLAG = {"type": ["boolean", "string", "null"], "maxLength": 8}
_CREATE = body.wrapped(
    "group_type",
    {
        "name": _NAME,
        "description": body.DESCRIPTION,
        "is_public": _FLAG,
        "group_specs": {**_SPECS, "type": ["object", "null"]},
    },
    ("name",),
)
_UPDATE = body.wrapped(
    "group_type",
    {"name": {**_NAME, "type": ["string", "null"]}, "description": body.DESCRIPTION, "is_public": _FLAG},
    minProperties=1,
)
_GROUP_SPECS = {
    "type": "object",
    "properties": {"group_specs": _SPECS},
    "required": ["group_specs"],
    "additionalProperties": False,
}
_ONE = {**_SPECS, "minProperties": 1, "maxProperties": 1}
_SORTABLE = ("created_at", "name", "id")
_TRUE, _FALSE = ("true", "1", "yes", "on", "t", "y"), ("false", "0", "no", "off", "f", "n")


def _flag(given: bool | str) -> bool:
    """Raises BadRequest for a text that is neither true nor false."""
    word = str(given).strip().lower()
    if word not in (*_TRUE, *_FALSE):
        raise BadRequest(f"Invalid input for field/attribute is_public: {word!r} is neither true nor false")
    return word in _TRUE


def _view(call: Call, row: GroupTypeRow) -> dict[str, Any]:
    """Group specs are shown to administrators only, as in Cinder."""
    shown = {"id": row["id"], "name": row["name"], "description": row["description"], "is_public": row["is_public"]}
    return {**shown, "group_specs": row["group_specs"]} if call.context.is_admin else shown


def find(call: Call, name_or_id: str) -> GroupTypeRow:
    """Returns the type's row. Raises NotFound, also of a type that is not public for whoever is no administrator."""
    with call.api.database.read() as connection:
        row = group_types.find(connection, name_or_id)
    if row is None or not (row["is_public"] or call.context.is_admin):
        raise NotFound(f"Group type {name_or_id} could not be found.")
    return row


def _read(call: Call) -> GroupTypeRow:
    return find(call, call.path["id"])


def _visible(call: Call) -> list[GroupTypeRow]:
    """Only administrators may list types that are not public: ``is_public`` asks for them, and as "None" for all types."""
    with call.api.database.read() as connection:
        rows = group_types.list_all(connection)
    asked = call.query.get("is_public", "true").lower() if call.context.is_admin else "true"
    return rows if asked == "none" else [row for row in rows if row["is_public"] == _flag(asked)]


def _paged(rows: list[GroupTypeRow], page: Page) -> list[GroupTypeRow]:
    for name, descending in reversed(page.sort):
        if name in _SORTABLE:
            rows = sorted(rows, key=lambda row: str(row[name]), reverse=descending)  # type: ignore[literal-required]
    first = page.offset
    if page.marker is not None:
        ids = [row["id"] for row in rows]
        if page.marker not in ids:
            raise NotFound(f"the marker {page.marker[:64]!r} was not found")
        first += ids.index(page.marker) + 1
    return rows[first : first + page.limit]


def list_all(call: Call) -> dict[str, Any]:
    """``GET /group_types``: the group types that the caller may use, the newest first unless sorted otherwise."""
    page = paging.wanted(call, {"is_public": "is_public"}, _SORTABLE)
    rows = _paged(_visible(call), page)
    return {"group_types": [_view(call, row) for row in rows], **paging.links(call, page, rows, "group_type_links")}


def show(call: Call) -> dict[str, Any]:
    """``GET /group_types/{id}``: one group type by name or id. Raises NotFound; ``default`` is none unless one is called so."""
    return {"group_type": _view(call, _read(call))}


def create(call: Call) -> dict[str, Any]:
    """``POST /group_types``: makes a group type. Raises Conflict when the name is taken."""
    given = call.body["group_type"]
    wanted = {"name": given["name"].strip(), "description": given.get("description")}
    public = given.get("is_public")
    wanted |= {"is_public": True if public is None else _flag(public), "group_specs": given.get("group_specs") or {}}
    return {"group_type": _view(call, find(call, worker(call).create_group_type(call.context, wanted=wanted)))}


def update(call: Call) -> dict[str, Any]:
    """``PUT /group_types/{id}``: changes name, description or is_public. Raises NotFound, Conflict, BadRequest when nothing
    is named."""
    changes = {name: value for name, value in call.body["group_type"].items() if value is not None}
    if not changes:
        raise BadRequest("Specify group type name, description or is_public.")
    if "is_public" in changes:
        changes["is_public"] = _flag(changes["is_public"])
    row = _read(call)
    worker(call).update_group_type(call.context, type_id=row["id"], changes=changes)
    return {"group_type": _view(call, find(call, row["id"]))}


def delete(call: Call) -> None:
    """``DELETE /group_types/{id}``: deletes a type. Raises NotFound, BadRequest while a group is of it."""
    worker(call).delete_group_type(call.context, type_id=_read(call)["id"])


def specs(call: Call) -> dict[str, Any]:
    """``GET /group_types/{id}/group_specs``: all group specs of a type. Raises NotFound."""
    return {"group_specs": _read(call)["group_specs"]}


def set_specs(call: Call) -> dict[str, Any]:
    """``POST /group_types/{id}/group_specs``: adds or changes the keys that are given."""
    given = call.body["group_specs"]
    worker(call).set_group_specs(call.context, type_id=_read(call)["id"], specs=given)
    return {"group_specs": given}


def show_spec(call: Call) -> dict[str, Any]:
    """``GET /group_types/{id}/group_specs/{key}``: one value. Raises NotFound."""
    known, key = _read(call)["group_specs"], call.path["key"]
    if key not in known:
        raise NotFound(f"Group Type {call.path['id']} has no group spec with key {key}.")
    return {key: known[key]}


def set_spec(call: Call) -> dict[str, Any]:
    """``PUT /group_types/{id}/group_specs/{key}``: sets one value. Raises BadRequest when the body names another key."""
    if list(call.body) != [call.path["key"]]:
        raise BadRequest("the key in the body is not the one in the path")
    worker(call).set_group_specs(call.context, type_id=_read(call)["id"], specs=call.body)
    return dict(call.body)


def delete_spec(call: Call) -> None:
    """``DELETE /group_types/{id}/group_specs/{key}``: removes one key. Raises NotFound."""
    worker(call).delete_group_spec(call.context, type_id=_read(call)["id"], key=call.path["key"])


_SPECS_PATH, _SINCE = "/group_types/{id}/group_specs", (3, 11)
ROUTES = (
    Route("GET", "/group_types", list_all, "group:get_all", since=_SINCE),
    Route("POST", "/group_types", create, "group:group_types:create", 202, _CREATE, since=_SINCE),
    Route("GET", "/group_types/{id}", show, "group:get_all", since=_SINCE),
    Route("PUT", "/group_types/{id}", update, "group:group_types:update", 200, _UPDATE, since=_SINCE),
    Route("DELETE", "/group_types/{id}", delete, "group:group_types:delete", 202, since=_SINCE),
    Route("GET", _SPECS_PATH, specs, "group:group_types_specs:get_all", since=_SINCE),
    Route("POST", _SPECS_PATH, set_specs, "group:group_types_specs:create", 202, _GROUP_SPECS, since=_SINCE),
    Route("GET", f"{_SPECS_PATH}/{{key}}", show_spec, "group:group_types_specs:get", since=_SINCE),
    Route("PUT", f"{_SPECS_PATH}/{{key}}", set_spec, "group:group_types_specs:update", 200, _ONE, since=_SINCE),
    Route("DELETE", f"{_SPECS_PATH}/{{key}}", delete_spec, "group:group_types_specs:delete", 202, since=_SINCE),
)

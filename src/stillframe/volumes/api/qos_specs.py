"""/qos-specs: limits that volume types may have."""

from typing import Any

from stillframe.db import qos_specs, volume_types
from stillframe.db.rows import QosSpecsRow
from stillframe.errors import BadRequest, NotFound
from stillframe.volumes.rpcapi import worker
from stillframe.web import body
from stillframe.web.route import Call, Route

CONSUMERS = ("front-end", "back-end", "both")
_RULES = "volume_extension:qos_specs_manage"
_TEXT = {"type": ["string", "null", "integer", "number"], "maxLength": 255}
_KEYS = {"minLength": 1, "maxLength": 255, "pattern": r"^[a-zA-Z0-9\-_:. /]+\Z"}
_SPECS = {"type": "object", "maxProperties": 64, "propertyNames": _KEYS, "additionalProperties": _TEXT}
_NAMED: Any = {
    "properties": {"name": {**body.NAME, "type": "string", "minLength": 1}, "consumer": {"enum": [*CONSUMERS, None]}}
}
_CREATE = {
    "type": "object",
    "properties": {"qos_specs": {**_SPECS, **_NAMED, "required": ["name"]}},
    "required": ["qos_specs"],
    "additionalProperties": False,
}
_UPDATE = {
    "type": "object",
    "properties": {"qos_specs": {**_SPECS, "properties": {"consumer": {"enum": [*CONSUMERS, None]}}}},
    "required": ["qos_specs"],
    "additionalProperties": False,
}
_UNSET = {
    "type": "object",
    "properties": {
        "keys": {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": 255},
            "maxItems": 64,
            "uniqueItems": True,
        }
    },
    "required": ["keys"],
    "additionalProperties": False,
}


def _shown(row: QosSpecsRow) -> dict[str, Any]:
    return {"id": row["id"], "name": row["name"], "consumer": row["consumer"], "specs": row["specs"]}


def _view(call: Call, row: QosSpecsRow) -> dict[str, Any]:
    root = call.base_url.rpartition("/v3")[0]
    links = [
        {"rel": "self", "href": f"{call.base_url}/qos-specs/{row['id']}"},
        {"rel": "bookmark", "href": f"{root}/qos-specs/{row['id']}"},
    ]
    return {"qos_specs": _shown(row), "links": links}


def _read(call: Call, qos_specs_id: str) -> QosSpecsRow:
    with call.api.database.read() as connection:
        row = qos_specs.get(connection, qos_specs_id)
    if row is None:
        raise NotFound(f"No such qos spec {qos_specs_id}.")
    return row


def _texts(given: dict[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in given.items() if key not in ("name", "consumer") and value is not None}


def list_all(call: Call) -> dict[str, Any]:
    """``GET /qos-specs``: all of them, by name."""
    with call.api.database.read() as connection:
        return {"qos_specs": [_shown(row) for row in qos_specs.list_all(connection)]}


def show(call: Call) -> dict[str, Any]:
    """``GET /qos-specs/{id}``: one of them. Raises NotFound."""
    return _view(call, _read(call, call.path["id"]))


def create(call: Call) -> dict[str, Any]:
    """``POST /qos-specs``: name, consumer and further keys, which are the limits. Raises Conflict for a name that is taken."""
    given = call.body["qos_specs"]
    name, consumer = given["name"].strip(), given.get("consumer") or "back-end"  # Cinder's default
    if not name:
        raise BadRequest("Invalid input for field/attribute name: it is empty")
    made = worker(call).create_qos_specs(call.context, name=name, consumer=consumer, specs=_texts(given))
    return _view(call, _read(call, made))


def update(call: Call) -> dict[str, Any]:
    """``PUT /qos-specs/{id}``: adds or changes limits; the answer has what was given. Raises NotFound."""
    given = call.body["qos_specs"]
    worker(call).change_qos_specs(
        call.context, qos_specs_id=call.path["id"], specs=_texts(given), consumer=given.get("consumer")
    )
    return {"qos_specs": given}


def delete_keys(call: Call) -> None:
    """``PUT /qos-specs/{id}/delete_keys``: removes limits. Raises NotFound."""
    worker(call).delete_qos_spec_keys(call.context, qos_specs_id=call.path["id"], keys=call.body["keys"])


def delete(call: Call) -> None:
    """``DELETE /qos-specs/{id}``: with ``force`` also while volume types have them. Raises NotFound, BadRequest."""
    force = call.query.get("force", "false").lower() in ("true", "1")
    worker(call).delete_qos_specs(call.context, qos_specs_id=call.path["id"], force=force)


def associations(call: Call) -> dict[str, Any]:
    """``GET /qos-specs/{id}/associations``: the volume types that have them. Raises NotFound."""
    row = _read(call, call.path["id"])
    with call.api.database.read() as connection:
        rows = volume_types.with_qos_specs(connection, row["id"])
    found = [{"association_type": "volume_type", "id": each["id"], "name": each["name"]} for each in rows]
    return {"qos_associations": found}


def _changing(call: Call) -> str:
    """The id in the path. Cinder has these changes as GET, so a question for their cost is refused here."""
    if call.explains:
        raise BadRequest("the cost of this request cannot be told beforehand. Nothing was done; leave out explain")
    return call.path["id"]


def _type_id(call: Call) -> str:
    if not call.query.get("vol_type_id"):
        raise BadRequest("Volume Type id must not be None: name it, ?vol_type_id=ID")
    return call.query["vol_type_id"]


def associate(call: Call) -> None:
    """``GET /qos-specs/{id}/associate?vol_type_id=``: gives them to a volume type. Raises NotFound, BadRequest."""
    worker(call).associate_qos_specs(call.context, qos_specs_id=_changing(call), type_id=_type_id(call))


def disassociate(call: Call) -> None:
    """``GET /qos-specs/{id}/disassociate?vol_type_id=``: takes them from a volume type. Raises NotFound."""
    worker(call).disassociate_qos_specs(call.context, qos_specs_id=_changing(call), type_id=_type_id(call))


def disassociate_all(call: Call) -> None:
    """``GET /qos-specs/{id}/disassociate_all``: no volume type has them any more. Raises NotFound."""
    worker(call).disassociate_qos_specs(call.context, qos_specs_id=_changing(call), type_id=None)


_ONE = "/qos-specs/{id}"
ROUTES = (
    Route("GET", "/qos-specs", list_all, f"{_RULES}:get_all"),
    Route("POST", "/qos-specs", create, f"{_RULES}:create", 200, _CREATE),
    Route("GET", _ONE, show, f"{_RULES}:get"),
    Route("PUT", _ONE, update, f"{_RULES}:update", 200, _UPDATE),
    Route("DELETE", _ONE, delete, f"{_RULES}:delete", 202),
    Route("PUT", f"{_ONE}/delete_keys", delete_keys, f"{_RULES}:delete", 202, _UNSET),
    Route("GET", f"{_ONE}/associations", associations, f"{_RULES}:get_all"),
    Route("GET", f"{_ONE}/associate", associate, f"{_RULES}:update", 202),
    Route("GET", f"{_ONE}/disassociate", disassociate, f"{_RULES}:update", 202),
    Route("GET", f"{_ONE}/disassociate_all", disassociate_all, f"{_RULES}:update", 202),
)

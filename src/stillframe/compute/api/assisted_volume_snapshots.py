"""os-assisted-volume-snapshots: Nova's call, as Cinder's file drivers make it."""

from typing import Any

from stillframe.compute.rpcapi import worker
from stillframe.errors import BadRequest
from stillframe.web import body
from stillframe.web.route import Call, Route

_CREATE = body.wrapped(
    "snapshot",
    {
        "volume_id": {"type": "string", "minLength": 1, "maxLength": 36},
        "create_info": {
            "type": "object",
            "properties": {
                "snapshot_id": {"type": "string", "minLength": 1, "maxLength": 36},
                "type": {"enum": ["qcow2"]},
                "new_file": {"type": "string", "minLength": 1, "maxLength": 255},
                "id": {"type": ["string", "null"], "maxLength": 255},
            },
            "required": ["snapshot_id", "type", "new_file"],
            "additionalProperties": False,
        },
    },
    ("volume_id", "create_info"),
)


def create(call: Call) -> dict[str, Any]:
    """``POST /os-assisted-volume-snapshots``: Cinder's call; switches one disk to the overlay that Cinder has made."""
    wanted = call.body["snapshot"]
    worker(call).create_assisted_volume_snapshot(call.context, volume_id=wanted["volume_id"], create_info=wanted["create_info"])
    return {"snapshot": {"id": wanted["create_info"].get("id"), "volumeId": wanted["volume_id"]}}


_FILE = {"type": ["string", "null"], "minLength": 1, "maxLength": 255}
_DELETE_INFO = {
    "type": "object",
    "properties": {
        "volume_id": {"type": "string", "minLength": 1, "maxLength": 36},
        "type": {"enum": ["qcow2", None]},
        "file_to_merge": _FILE,
        "merge_target_file": _FILE,
        "id": {"type": ["string", "null"], "maxLength": 36},
        "bandwidth_mib": {"type": ["integer", "null"], "minimum": 0, "maximum": 1 << 20},
        "branches": {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 255}, "maxItems": 1000},
    },
    "required": ["volume_id"],
    "additionalProperties": False,
}


def _delete_info(text: str) -> Any:
    info = body.parse(text.encode())
    body.check(info, _DELETE_INFO)
    return info


def delete(call: Call) -> None:
    """Nova's call: the files to merge stand in the query, as JSON."""
    info = _delete_info(call.query.get("delete_info", ""))
    if set(call.query) - {"delete_info"}:
        raise BadRequest(f"unknown query keys: {sorted(set(call.query) - {'delete_info'})}")
    if info.get("merge_target_file") and not info.get("file_to_merge"):
        raise BadRequest("merge_target_file needs file_to_merge")
    worker(call).merge_volume(call.context, snapshot_id=call.path["id"], delete_info=info)


def show_merge(call: Call) -> dict[str, Any]:
    """How a merge goes that was asked for with an ``id`` in its delete_info; not part of Nova."""
    return {"merge": worker(call).merge_status(call.context, operation_id=call.path["id"])}


def cancel(call: Call) -> None:
    """``cancel``: ends a merge that runs. Raises NotFound, Conflict when it is past that."""
    worker(call).cancel_merge(call.context, operation_id=call.path["id"])


_CANCEL = {
    "type": "object",
    "properties": {"cancel": {"type": ["object", "null"], "maxProperties": 0}},
    "required": ["cancel"],
    "additionalProperties": False,
}
_RULE = "os_compute_api:os-assisted-volume-snapshots:delete"
ROUTES = (
    Route(
        "POST",
        "/os-assisted-volume-snapshots",
        create,
        "os_compute_api:os-assisted-volume-snapshots:create",
        200,
        _CREATE,
    ),
    Route("DELETE", "/os-assisted-volume-snapshots/{id}", delete, _RULE, 204),
    Route("GET", "/os-assisted-volume-snapshots/{id}", show_merge, _RULE),
    Route("POST", "/os-assisted-volume-snapshots/{id}/action", cancel, _RULE, 202, _CANCEL, "cancel"),
)

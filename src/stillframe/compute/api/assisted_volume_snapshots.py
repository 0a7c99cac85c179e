"""os-assisted-volume-snapshots: Nova's call, as Cinder's file drivers make it."""

from typing import Any

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
    wanted = call.body["snapshot"]
    call.ask("create_assisted_volume_snapshot", volume_id=wanted["volume_id"], create_info=wanted["create_info"])
    return {"snapshot": {"id": wanted["create_info"].get("id"), "volumeId": wanted["volume_id"]}}


ROUTES = (
    Route(
        "POST",
        "/os-assisted-volume-snapshots",
        create,
        "os_compute_api:os-assisted-volume-snapshots:create",
        200,
        _CREATE,
    ),
)

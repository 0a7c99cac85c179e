"""os-assisted-snapshot-settings: what assisted snapshots of one server keep to, where the request does not say."""

from typing import Any

from stillframe.compute.rpcapi import worker
from stillframe.web import body
from stillframe.web.route import Call, Route

MOST_NAMES = 32
QUIESCE = {"enum": ["preferred", "required", "never", None]}
VOLUMES = {
    "oneOf": [
        {"enum": ["all", None]},
        {
            "type": "array",
            "items": {"type": "string", "maxLength": 36},
            "minItems": 1,
            "maxItems": 128,
            "uniqueItems": True,
        },
    ]
}
ALLOW_UNFREEZABLE = {
    "type": ["array", "null"],
    "items": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[^\x00-\x1f\x7f]*\Z"},
    "maxItems": MOST_NAMES,
    "uniqueItems": True,
}
HOOK_TIMEOUT = {"type": ["integer", "null"], "minimum": 1, "maximum": 600}
_UPDATE = body.wrapped(
    "assisted_snapshot_settings",
    {"quiesce": QUIESCE, "allow_unfreezable": ALLOW_UNFREEZABLE, "hook_timeout": HOOK_TIMEOUT},
    minProperties=1,
)


def show(call: Call) -> dict[str, Any]:
    """``GET``: what was set for the server's sets; null where the deployment decides. Raises NotFound."""
    return {"assisted_snapshot_settings": worker(call).show_server_settings(call.context, server_id=call.path["id"])}


def update(call: Call) -> dict[str, Any]:
    """``PUT``: changes the settings that are named; null takes one back. Raises NotFound."""
    changes = call.body["assisted_snapshot_settings"]
    found = worker(call).change_server_settings(call.context, server_id=call.path["id"], changes=changes)
    return {"assisted_snapshot_settings": found}


_PATH, _RULE = "/servers/{id}/os-assisted-snapshot-settings", "os_compute_api:os-assisted-snapshot-settings"
ROUTES = (
    Route("GET", _PATH, show, f"{_RULE}:show"),
    Route("PUT", _PATH, update, f"{_RULE}:update", 200, _UPDATE),
)

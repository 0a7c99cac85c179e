"""os-adopt-disks: disks that a server has already become volumes where they are, and are plain files again."""

from typing import Any

from stillframe.compute.rpcapi import worker
from stillframe.web import body
from stillframe.web.route import Call, Route

_TARGETS = {
    "oneOf": [
        {"enum": ["all", None]},
        {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": 32},
            "minItems": 1,
            "maxItems": 128,
            "uniqueItems": True,
        },
    ]
}
_ADOPT = body.wrapped("adopt", {"disks": _TARGETS, "dry_run": {"type": "boolean"}})
_RELEASE = body.wrapped("release", {"delete_snapshots": {"type": "boolean"}, "keep_files": {"type": "boolean"}})


def adopt(call: Call) -> dict[str, Any]:
    """``POST``: begins to make volumes of the disks, with ``dry_run`` only says what would become of each. Raises NotFound,
    BadRequest, Conflict."""
    asked = call.body["adopt"]
    disks, server_id = asked.get("disks") or "all", call.path["id"]
    targets = None if disks == "all" else disks
    if asked.get("dry_run"):
        return {"adoption": worker(call).look_at_disks(call.context, server_id=server_id, targets=targets)}
    return {"adoption": worker(call).adopt_disks(call.context, server_id=server_id, targets=targets)}


def show(call: Call) -> dict[str, Any]:
    """``GET``: the disks of a server, which of them are volumes, and how the last adoption or release ended. Raises
    NotFound."""
    return {"adoption": worker(call).look_at_disks(call.context, server_id=call.path["id"], targets=None)}


def release(call: Call) -> dict[str, Any]:
    """``POST``: begins to let the disks be plain files again. Raises NotFound, BadRequest, Conflict."""
    found = worker(call).release_disks(call.context, server_id=call.path["id"], wanted=call.body["release"])
    return {"release": found}


_POLICY = "os_compute_api:os-adopt-disks"
ROUTES = (
    Route("GET", "/servers/{id}/os-adopt-disks", show, _POLICY),
    Route("POST", "/servers/{id}/os-adopt-disks", adopt, _POLICY, 202, _ADOPT),
    Route("POST", "/servers/{id}/os-release-disks", release, _POLICY, 202, _RELEASE),
)

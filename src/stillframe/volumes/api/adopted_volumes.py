"""/os-adopted-volumes: files that servers have open already become volumes where they are. Compute alone asks."""

from typing import Any

from stillframe.volumes.api.volumes import read, views
from stillframe.volumes.rpcapi import worker
from stillframe.web import body
from stillframe.web.route import Call, Route

_ID = {"type": "string", "minLength": 32, "maxLength": 36}
_OWNER = {"type": "string", "maxLength": 255}
_FILE = {
    "directory": {"type": "string", "minLength": 1, "maxLength": 1024},
    "file": {"type": "string", "minLength": 1, "maxLength": 255},
    "format": {"enum": ["raw", "qcow2"]},
}
_ADOPT = body.wrapped(
    "adopted_volume",
    {
        **_FILE,
        "id": _ID,
        "attachment_id": _ID,
        "server_id": _ID,
        "project_id": _OWNER,
        "user_id": _OWNER,
        "connector": {"type": "object", "additionalProperties": True},
        "name": body.NAME,
        "bootable": {"type": "boolean"},
    },
    (*_FILE, "id", "attachment_id", "server_id", "project_id", "user_id", "connector"),
)
_LOOK = body.wrapped("adopted_volume", _FILE, tuple(_FILE))
_RELEASE = body.wrapped("os-release_adopted", {"keep_files": {"type": "boolean"}})


def adopt(call: Call) -> dict[str, Any]:
    """``POST /os-adopted-volumes``: makes the volume, attached to its server. The same id again: the same answer."""
    volume_id = worker(call).adopt_volume(call.context, wanted=call.body["adopted_volume"])
    return {"volume": views(call, [read(call, volume_id)])[0]}


def look(call: Call) -> dict[str, Any]:
    """``POST /os-adopted-volumes/look``: what the volume would be, or why it cannot be one. Changes nothing."""
    return {"adopted_volume": worker(call).look_at_adoptable(call.context, wanted=call.body["adopted_volume"])}


def release(call: Call) -> dict[str, Any]:
    """``os-release_adopted``: the volume is no more, its files stay. Returns the operation's id. Raises NotFound, Conflict."""
    keep = bool(call.body["os-release_adopted"].get("keep_files"))
    return {"operation_id": worker(call).release_volume(call.context, volume_id=call.path["id"], keep_files=keep)}


_POLICY = "volume:adopt"
ROUTES = (
    Route("POST", "/os-adopted-volumes", adopt, _POLICY, 202, _ADOPT),
    Route("POST", "/os-adopted-volumes/look", look, _POLICY, 200, _LOOK),
    Route("POST", "/volumes/{id}/action", release, _POLICY, 202, _RELEASE, "os-release_adopted"),
)

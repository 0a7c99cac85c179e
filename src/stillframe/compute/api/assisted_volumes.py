"""os-assisted-volumes: what block storage asks of the server that has a volume. Not part of Nova."""

from typing import Any

from stillframe.compute.rpcapi import worker
from stillframe.errors import BadRequest, NotFound
from stillframe.web import body
from stillframe.web.route import Call, Route

_RESIZE = body.wrapped("resize", {"size": {"type": "integer", "minimum": 512, "maximum": 1 << 60}}, ("size",))
_SWITCH = body.wrapped(
    "switch_file",
    {
        "name": {"type": "string", "minLength": 1, "maxLength": 255},
        "format": {"enum": ["qcow2", "raw"]},
        "to_come": {"type": "boolean"},
    },
    ("name", "format"),
)


def named_files(call: Call) -> dict[str, Any]:
    """``GET /os-assisted-volumes``: the files that any server's description names, for block storage."""
    directory = call.query.get("directory")
    if not directory:
        raise BadRequest("the query needs directory=PATH, the directory whose files are asked about")
    return {"files": worker(call).named_files(call.context, directory=directory, sure=call.query.get("sure") == "1")}


def show(call: Call) -> dict[str, Any]:
    """``GET /os-assisted-volumes/{id}``: the server that has the volume, whether it runs, and which file it has open."""
    found = worker(call).server_of_volume(call.context, volume_id=call.path["id"])
    if found is None:
        raise NotFound(f"no server has volume {call.path['id'][:64]}")
    return {"server": found}


def users(call: Call) -> dict[str, Any]:
    """``GET /os-assisted-volumes/{id}/users``: every description and saved state that names a file of the volume."""
    return {"users": worker(call).users_of_volume(call.context, volume_id=call.path["id"])}


def resize(call: Call) -> None:
    """``resize``: tells a running server that its disk has grown; the size is in bytes."""
    worker(call).resize_disk(call.context, volume_id=call.path["id"], size=call.body["resize"]["size"])


def switch_file(call: Call) -> None:
    """``switch_file``: a stopped server's description names another file of the volume from now on."""
    worker(call).switch_disk_file(call.context, volume_id=call.path["id"], wanted=call.body["switch_file"])


_PATH, _RULE = "/os-assisted-volumes/{id}", "os_compute_api:os-assisted-volumes"
ROUTES = (
    Route("GET", "/os-assisted-volumes", named_files, _RULE),
    Route("GET", _PATH, show, _RULE),
    Route("GET", f"{_PATH}/users", users, _RULE),
    Route("POST", f"{_PATH}/action", resize, _RULE, 202, _RESIZE, "resize"),
    Route("POST", f"{_PATH}/action", switch_file, _RULE, 202, _SWITCH, "switch_file"),
)

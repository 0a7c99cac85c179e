"""/manageable_volumes and /os-volume-manage: files on a share that become volumes."""

from typing import Any

from stillframe.errors import BadRequest
from stillframe.volumes.api.volumes import read, views
from stillframe.volumes.rpcapi import worker
from stillframe.web import body
from stillframe.web.route import Call, Route

_MOST = 1000
_TEXT = {"type": ["string", "null"], "maxLength": 255}
_MANAGE = body.wrapped(
    "volume",
    {
        "host": {"type": ["string", "null"], "maxLength": 1024},
        "cluster": {"type": "null"},
        "ref": {
            "type": "object",
            "properties": {"source-name": {"type": "string", "minLength": 1, "maxLength": 255}, "format": _TEXT},
            "required": ["source-name"],
            "additionalProperties": False,
        },
        "name": body.NAME,
        "description": body.DESCRIPTION,
        "volume_type": _TEXT,
        "availability_zone": _TEXT,
        "metadata": body.METADATA,
        "bootable": {"type": ["boolean", "null"]},
    },
    ("ref",),
)


def manage(call: Call) -> dict[str, Any]:
    """``POST /manageable_volumes``: makes a volume of a file on a share. Raises BadRequest, NotFound, BadImage, FileInUse."""
    wanted = {key: value for key, value in call.body["volume"].items() if value is not None}
    ref = wanted.pop("ref")
    if "host" not in wanted:
        raise BadRequest("host is missing: HOST@BACKEND#EXPORT, as /scheduler-stats/get_pools lists them")
    wanted |= {"source_name": ref["source-name"], "format": ref.get("format")}
    volume_id = worker(call).manage_volume(call.context, wanted=wanted)
    return {"volume": views(call, [read(call, volume_id)])[0]}


def _listed(call: Call) -> list[dict[str, Any]]:
    host = call.query.get("host")
    if not host:
        raise BadRequest("the query needs host=HOST@BACKEND#EXPORT, as /scheduler-stats/get_pools lists them")
    offset, limit = (_number(call, name, default) for name, default in (("offset", 0), ("limit", _MOST)))
    found: list[dict[str, Any]] = worker(call).manageable_volumes(
        call.context, host=host, offset=offset, limit=min(limit, _MOST)
    )
    return found


def _number(call: Call, name: str, default: int) -> int:
    text = call.query.get(name, str(default))
    if not text.isdecimal() or len(text) > 9:
        raise BadRequest(f"{name} must be a number, not {text[:20]!r}")
    return int(text)


def list_brief(call: Call) -> dict[str, Any]:
    """``GET /manageable_volumes``: the files of a share that are no volume's, with size in GiB and
    whether they may be taken."""
    kept = ("reference", "size", "safe_to_manage")
    return {"manageable-volumes": [{key: entry[key] for key in kept} for entry in _listed(call)]}


def list_detail(call: Call) -> dict[str, Any]:
    """``GET /manageable_volumes/detail``: the same, and why a file cannot be taken."""
    return {"manageable-volumes": _listed(call)}


_POLICY = "volume_extension:volume_manage"
ROUTES = (
    Route("POST", "/manageable_volumes", manage, _POLICY, 202, _MANAGE, since=(3, 8)),
    Route("GET", "/manageable_volumes", list_brief, _POLICY, since=(3, 8)),
    Route("GET", "/manageable_volumes/detail", list_detail, _POLICY, since=(3, 8)),
    Route("POST", "/os-volume-manage", manage, _POLICY, 202, _MANAGE),
)

"""POST /volumes/{id}/action as clients of old attach, make read only and change the type."""

from typing import Any

from stillframe.errors import BadRequest
from stillframe.volumes.api.volumes import read, refuse_private_type
from stillframe.volumes.rpcapi import worker
from stillframe.web import body
from stillframe.web.route import Call, Route

_TRUE, _FALSE = ("1", "t", "true", "on", "y", "yes"), ("0", "f", "false", "off", "n", "no")
_ID = {"type": ["string", "null"], "maxLength": 36}
_ATTACH = body.wrapped(
    "os-attach",
    {
        "instance_uuid": _ID,
        "mountpoint": {"type": "string", "minLength": 1, "maxLength": 255},
        "host_name": {"type": ["string", "null"], "maxLength": 255},
        "mode": {"enum": ["rw", "ro", None]},
    },
    ("mountpoint",),
)
_DETACH: Any = {
    "type": "object",
    "properties": {
        "os-detach": {"type": ["object", "null"], "properties": {"attachment_id": _ID}, "additionalProperties": False}
    },
    "required": ["os-detach"],
    "additionalProperties": False,
}
_READONLY = body.wrapped(
    "os-update_readonly_flag", {"readonly": {"type": ["boolean", "string", "integer"], "maxLength": 8}}, ("readonly",)
)
_RETYPE = body.wrapped(
    "os-retype",
    {
        "new_type": {"type": "string", "minLength": 1, "maxLength": 255},
        "migration_policy": {"enum": ["on-demand", "never", None]},
    },
    ("new_type",),
)


def _any(action: str) -> Any:
    """Cinder takes anything as the value of these."""
    value = {"type": ["object", "string", "null"], "maxLength": 255, "maxProperties": 16}
    return {"type": "object", "properties": {action: value}, "required": [action], "additionalProperties": False}


def _id(call: Call) -> str:
    return str(read(call, call.path["id"])["id"])


def reserve(call: Call) -> None:
    """``os-reserve``: the volume is ``attaching``. Raises BadRequest unless it is available."""
    worker(call).reserve_volume(call.context, volume_id=_id(call))


def unreserve(call: Call) -> None:
    """``os-unreserve``: takes ``os-reserve`` back. Raises BadRequest."""
    worker(call).unreserve_volume(call.context, volume_id=_id(call))


def begin_detaching(call: Call) -> None:
    """``os-begin_detaching``: the volume is ``detaching``. Raises BadRequest unless it is in use."""
    worker(call).begin_detaching(call.context, volume_id=_id(call))


def roll_detaching(call: Call) -> None:
    """``os-roll_detaching``: takes ``os-begin_detaching`` back. Raises BadRequest."""
    worker(call).roll_detaching(call.context, volume_id=_id(call))


def attach(call: Call) -> None:
    """``os-attach``: records that a server or a host has the volume. Raises BadRequest when neither is named."""
    wanted, volume_id = call.body["os-attach"], _id(call)
    if not (wanted.get("instance_uuid") or wanted.get("host_name")):
        raise BadRequest("Invalid input for field/attribute os-attach: name instance_uuid or host_name")
    worker(call).attach_volume(call.context, volume_id=volume_id, wanted=wanted)


def detach(call: Call) -> None:
    """``os-detach``: ends an attachment of a volume that nobody uses. Raises BadRequest, NotFound, Conflict."""
    wanted = (call.body["os-detach"] or {}).get("attachment_id")
    worker(call).detach_volume(call.context, volume_id=_id(call), attachment_id=wanted)


def set_readonly(call: Call) -> None:
    """``os-update_readonly_flag``: whether servers may write to the volume. Raises BadRequest."""
    text = str(call.body["os-update_readonly_flag"]["readonly"]).lower()
    if text not in (*_TRUE, *_FALSE):
        raise BadRequest(f"Invalid input for field/attribute readonly: it must be true or false, not {text[:8]!r}")
    worker(call).set_volume_readonly(call.context, volume_id=_id(call), readonly=text in _TRUE)


def retype(call: Call) -> None:
    """``os-retype``: another volume type, where the volume's place fits it. Raises NotFound, BadRequest."""
    new_type, volume_id = call.body["os-retype"]["new_type"], _id(call)
    refuse_private_type(call, new_type)
    worker(call).retype_volume(call.context, volume_id=volume_id, new_type=new_type)


_PATH = "/volumes/{id}/action"
_RULES = "volume_extension:volume_actions"
ROUTES = (
    Route("POST", _PATH, reserve, f"{_RULES}:reserve", 202, _any("os-reserve"), "os-reserve"),
    Route("POST", _PATH, unreserve, f"{_RULES}:unreserve", 202, _any("os-unreserve"), "os-unreserve"),
    Route("POST", _PATH, begin_detaching, f"{_RULES}:begin_detaching", 202, _any("os-begin_detaching"), "os-begin_detaching"),
    Route("POST", _PATH, roll_detaching, f"{_RULES}:roll_detaching", 202, _any("os-roll_detaching"), "os-roll_detaching"),
    Route("POST", _PATH, attach, f"{_RULES}:attach", 202, _ATTACH, "os-attach"),
    Route("POST", _PATH, detach, f"{_RULES}:detach", 202, _DETACH, "os-detach"),
    Route("POST", _PATH, set_readonly, "volume:update_readonly_flag", 202, _READONLY, "os-update_readonly_flag"),
    Route("POST", _PATH, retype, "volume:retype", 202, _RETYPE, "os-retype"),
)

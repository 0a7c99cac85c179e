"""/servers/{id}/os-volume_attachments: list, show, attach, detach."""

from typing import Any

from stillframe.compute.rpcapi import worker
from stillframe.errors import NotFound
from stillframe.web import body, paging
from stillframe.web.route import Call, Route

_TEXT = {"type": ["string", "null"], "maxLength": 255}
_CREATE = body.wrapped(
    "volumeAttachment",
    {
        "volumeId": {"type": "string", "maxLength": 36},
        "device": _TEXT,
        "tag": {"type": "null"},
        "delete_on_termination": {"enum": [False, None]},
    },
    ("volumeId",),
)


def _view(call: Call, entry: dict[str, Any]) -> dict[str, Any]:
    shown = {"volumeId": entry["volume_id"], "serverId": entry["server_id"], "device": entry["device"]}
    shown["guest_has_disk"] = entry["guest_has_disk"]
    if call.version < (2, 89):
        shown["id"] = entry["volume_id"]
    if call.version >= (2, 70):
        shown["tag"] = None
    if call.version >= (2, 79):
        shown["delete_on_termination"] = False
    if call.version >= (2, 89):
        shown["attachment_id"] = shown["bdm_uuid"] = entry["attachment_id"]
    return shown


def list_all(call: Call) -> dict[str, Any]:
    """``GET /servers/{id}/os-volume_attachments``: the volumes of a server. Raises NotFound."""
    found = worker(call).list_attached(call.context, server_id=call.path["id"])
    offset, limit = paging.number(call, "offset", 0), paging.number(call, "limit", paging.MAX_LIMIT)
    return {"volumeAttachments": [_view(call, entry) for entry in found[offset : offset + limit]]}


def show(call: Call) -> dict[str, Any]:
    """``GET /servers/{id}/os-volume_attachments/{volume_id}``: one of them. Raises NotFound."""
    for entry in worker(call).list_attached(call.context, server_id=call.path["id"]):
        if entry["volume_id"] == call.path["volume_id"]:
            return {"volumeAttachment": _view(call, entry)}
    raise NotFound(f"volume_id not found: {call.path['volume_id']}")


def attach(call: Call) -> dict[str, Any]:
    """``POST /servers/{id}/os-volume_attachments``: begins to attach a volume. Raises NotFound, BadRequest, Conflict."""
    wanted = call.body["volumeAttachment"]
    entry = worker(call).attach_volume(
        call.context, server_id=call.path["id"], volume_id=wanted["volumeId"], device=wanted.get("device") or None
    )
    return {"volumeAttachment": {"id": entry["volume_id"], **_view(call, entry)}}


def detach(call: Call) -> None:
    """``DELETE /servers/{id}/os-volume_attachments/{volume_id}``: begins to detach a volume. Raises NotFound, Conflict."""
    worker(call).detach_volume(call.context, server_id=call.path["id"], volume_id=call.path["volume_id"])


_ALL, _ONE = "/servers/{id}/os-volume_attachments", "/servers/{id}/os-volume_attachments/{volume_id}"
ROUTES = (
    Route("GET", _ALL, list_all, "os_compute_api:os-volumes-attachments:index"),
    Route("GET", _ONE, show, "os_compute_api:os-volumes-attachments:index"),
    Route("POST", _ALL, attach, "os_compute_api:os-volumes-attachments:create", 200, _CREATE),
    Route("DELETE", _ONE, detach, "os_compute_api:os-volumes-attachments:delete", 202),
)

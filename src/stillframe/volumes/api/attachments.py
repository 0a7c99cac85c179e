"""/attachments: reserve, connect, complete, release (microversions 3.27 and 3.44)."""

from collections.abc import Sequence
from typing import Any

from stillframe.chain.names import lookup_id
from stillframe.db import attachments
from stillframe.db.rows import AttachmentRow
from stillframe.errors import NotFound
from stillframe.volumes.api.volumes import stamp
from stillframe.volumes.rpcapi import worker
from stillframe.web import body, paging
from stillframe.web.route import Call, Route

FILTERS = {"volume_id": "volume_id", "instance_id": "instance_id", "status": "status", "project_id": "project_id"}
_CONNECTOR = {"type": ["object", "null"], "maxProperties": 64}
_CREATE = body.wrapped(
    "attachment",
    {
        "volume_uuid": {"type": "string", "maxLength": 36},
        "instance_uuid": {"type": ["string", "null"], "maxLength": 36},
        "connector": _CONNECTOR,
        "mode": {"enum": ["rw", "ro", None]},
    },
    ("volume_uuid",),
)
# Addresses, places and secrets that are no business of a project's members.
_OF_THE_HOST = ("export", "mount_point_base", "options", "target_portal", "target_iqn", "auth_username", "auth_password")
_UPDATE = body.wrapped("attachment", {"connector": {"type": "object", "maxProperties": 64}}, ("connector",))

_REPORT = body.wrapped("os-report_guest_disk", {"present": {"type": "boolean"}}, ("present",))


def _view(call: Call, row: AttachmentRow) -> dict[str, Any]:
    return _views(call, [row])[0]


def _views(call: Call, rows: Sequence[AttachmentRow]) -> list[dict[str, Any]]:
    connected = [row["id"] for row in rows if row["connector"]]
    infos = worker(call).connection_infos(call.context, attachment_ids=connected) if connected else {}
    hidden = () if call.context.sees_hosts else _OF_THE_HOST
    known = {key: {name: info[name] for name in info if name not in hidden} for key, info in infos.items()}
    return [_shown(call, row, known.get(row["id"])) for row in rows]


def _shown(call: Call, row: AttachmentRow, known: dict[str, Any] | None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": row["id"],
        "status": row["status"],
        "instance": row["instance_id"],
        "volume_id": row["volume_id"],
    }
    info: dict[str, Any] = {}
    if known is not None:
        info = {
            **known,
            "qos_specs": None,
            "access_mode": row["mode"],
            "encrypted": False,
            "cacheable": False,
            "enforce_multipath": False,
            "attachment_id": row["id"],
        }
    return {
        **shown,
        "attached_at": stamp(row["attached_at"]) or "",
        **({"missing_in_guest_since": stamp(row["missing_since"])} if call.additions else {}),
        "detached_at": "",
        "attach_mode": row["mode"],
        "connection_info": info,
    }


def _read(call: Call, attachment_id: str) -> AttachmentRow:
    with call.api.database.read() as connection:
        row = attachments.get(connection, lookup_id(attachment_id), call.project_of_one)
    if row is None:
        raise NotFound(f"Volume attachment could not be found with filter: attachment_id = {attachment_id}.")
    return row


def _rows(call: Call) -> list[AttachmentRow]:
    page = paging.wanted(call, FILTERS, ("created_at", "status", "id"))
    with call.api.database.read() as connection:
        return attachments.list_page(connection, call.project, page)


def list_brief(call: Call) -> dict[str, Any]:
    """``GET /attachments``: id, status, server and volume of each attachment of the project."""
    brief = [
        {"id": row["id"], "status": row["status"], "instance": row["instance_id"], "volume_id": row["volume_id"]}
        for row in _rows(call)
    ]
    return {"attachments": brief}


def list_detail(call: Call) -> dict[str, Any]:
    """``GET /attachments/detail``: the attachments of the project, each as ``show`` has it."""
    return {"attachments": _views(call, _rows(call))}


def show(call: Call) -> dict[str, Any]:
    """``GET /attachments/{id}``: one attachment; its connection_info is for services and administrators. Raises NotFound."""
    return {"attachment": _view(call, _read(call, call.path["id"]))}


def create(call: Call) -> dict[str, Any]:
    """``POST /attachments``: reserves a volume for a server, with a connector also connects it. Raises as the worker does."""
    attachment_id = worker(call).create_attachment(call.context, wanted=call.body["attachment"])
    return {"attachment": _view(call, _read(call, attachment_id))}


def update(call: Call) -> dict[str, Any]:
    """``PUT /attachments/{id}``: gives a reserved volume its connector; the answer has the connection_info. Raises NotFound."""
    row = _read(call, call.path["id"])
    worker(call).update_attachment(call.context, attachment_id=row["id"], connector=call.body["attachment"]["connector"])
    return {"attachment": _view(call, _read(call, row["id"]))}


def complete(call: Call) -> None:
    """``os-complete``: the server has the disk now; the volume becomes ``in-use``. Raises NotFound."""
    worker(call).complete_attachment(call.context, attachment_id=_read(call, call.path["id"])["id"])


def report(call: Call) -> None:
    """``os-report_guest_disk``: compute says whether the running guest still has the disk. Raises NotFound."""
    wanted = call.body["os-report_guest_disk"]
    worker(call).report_guest_disk(call.context, attachment_id=_read(call, call.path["id"])["id"], present=wanted["present"])


def delete(call: Call) -> dict[str, Any]:
    """``DELETE /attachments/{id}``: ends an attachment; the answer lists those that remain of the volume. Raises NotFound."""
    return {"attachments": worker(call).delete_attachment(call.context, attachment_id=_read(call, call.path["id"])["id"])}


ROUTES = (
    Route("GET", "/attachments", list_brief, "volume:attachment_get", since=(3, 27)),
    Route("GET", "/attachments/detail", list_detail, "volume:attachment_get", since=(3, 27)),
    Route("GET", "/attachments/{id}", show, "volume:attachment_get", since=(3, 27)),
    Route("POST", "/attachments", create, "volume:attachment_create", 200, _CREATE, since=(3, 27)),
    Route("PUT", "/attachments/{id}", update, "volume:attachment_update", 200, _UPDATE, since=(3, 27)),
    Route("DELETE", "/attachments/{id}", delete, "volume:attachment_delete", since=(3, 27)),
    Route(
        "POST",
        "/attachments/{id}/action",
        complete,
        "volume:attachment_complete",
        204,
        action="os-complete",
        since=(3, 44),
    ),
    Route(
        "POST",
        "/attachments/{id}/action",
        report,
        "volume:attachment_report",
        204,
        _REPORT,
        action="os-report_guest_disk",
        since=(3, 44),
    ),
)

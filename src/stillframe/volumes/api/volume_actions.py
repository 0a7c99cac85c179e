"""POST /volumes/{id}/action: what is done to a volume that is there."""

from typing import Any

from stillframe.db import attachments
from stillframe.errors import BadRequest, Forbidden
from stillframe.volumes.api.volumes import read, stamp
from stillframe.volumes.rpcapi import worker
from stillframe.web import body
from stillframe.web.route import Call, Route

_TEXT = {"type": ["string", "null"], "maxLength": 255}
_STATUS = ("available", "error", "creating", "deleting", "error_deleting", "in-use", "maintenance", "attaching", "detaching")
_EXTEND = body.wrapped(
    "os-extend",
    {"new_size": {"type": ["integer", "string"], "pattern": r"^[0-9]{1,9}\Z", "minimum": 1, "maximum": (1 << 31) - 1}},
    ("new_size",),
)
_REVERT = body.wrapped(
    "revert",
    {"snapshot_id": {"type": "string", "maxLength": 36}, "newer_snapshots": {"enum": ["keep", "remove", None]}},
    ("snapshot_id",),
)
_RESET = body.wrapped(
    "os-reset_status", {"status": {"enum": [*_STATUS, None]}, "attach_status": _TEXT, "migration_status": _TEXT}
)
_FORCE_DETACH = body.wrapped(
    "os-force_detach",
    {
        "attachment_id": {"type": ["string", "null"], "maxLength": 36},
        "connector": {"type": ["object", "null"], "maxProperties": 64},
    },
)
_BOOTABLE = body.wrapped("os-set_bootable", {"bootable": {"type": ["boolean", "string"], "maxLength": 8}}, ("bootable",))
_IMAGE_METADATA = body.wrapped("os-set_image_metadata", {"metadata": {**body.METADATA, "type": "object"}}, ("metadata",))
_UPLOAD = body.wrapped(
    "os-volume_upload_image",
    {
        "image_name": {"type": "string", "minLength": 1, "maxLength": 255},
        "force": {"type": ["boolean", "string", "null"], "maxLength": 8},
        "disk_format": {"enum": ["raw", "qcow2", None]},
        "container_format": {"enum": ["bare", None]},
        "visibility": {"enum": ["public", "private", "shared", "community", None]},
        "protected": {"type": ["boolean", "null"]},
    },
    ("image_name",),
)
_FAULT = body.wrapped("os-note_fault", {"fault": {"type": "string", "minLength": 1, "maxLength": 4000}}, ("fault",))
_KEY = body.wrapped("os-unset_image_metadata", {"key": {"type": "string", "minLength": 1, "maxLength": 255}}, ("key",))


def _empty(action: str) -> Any:
    return {
        "type": "object",
        "properties": {action: {"type": ["object", "null"], "maxProperties": 0}},
        "required": [action],
        "additionalProperties": False,
    }


def _id(call: Call) -> str:
    return str(read(call, call.path["id"])["id"])


def extend(call: Call) -> None:
    """``os-extend``: begins to make a volume larger, ``new_size`` in GiB. Raises BadRequest, Conflict, QuotaExceeded."""
    worker(call).extend_volume(call.context, volume_id=_id(call), new_size=int(call.body["os-extend"]["new_size"]))


def revert(call: Call) -> None:
    """``revert``: begins to give a volume the content of one of its snapshots. Raises BadRequest, Conflict."""
    wanted = call.body["revert"]
    worker(call).revert_volume(
        call.context, volume_id=_id(call), snapshot_id=wanted["snapshot_id"], newer=wanted.get("newer_snapshots")
    )


def undo_revert(call: Call) -> None:
    """``os-undo_revert``: takes back the last revert, as long as nothing was written since. Raises Conflict."""
    worker(call).undo_revert(call.context, volume_id=_id(call))


def reset_status(call: Call) -> None:
    """``os-reset_status``: an administrator corrects the status of a row; no file is touched. Raises BadRequest."""
    given, volume_id = call.body["os-reset_status"], _id(call)
    with call.api.database.read() as connection:
        found = attachments.of_volumes(connection, [volume_id])[volume_id]
    if given.get("attach_status") not in (None, "attached" if found else "detached"):
        raise BadRequest(
            f"volume {volume_id} has {len(found)} attachments; its attach_status follows from them and cannot be set"
        )
    if given.get("status") is not None:
        worker(call).reset_volume_status(call.context, volume_id=volume_id, status=given["status"])


def force_delete(call: Call) -> None:
    """``os-force_delete``: begins the deletion whatever the status is. Raises Conflict."""
    worker(call).delete_volume(call.context, volume_id=_id(call), cascade=True, force=True)


def force_detach(call: Call) -> None:
    """The connector, which Cinder passes to drivers that unmap a volume from a host, has no meaning for a file."""
    wanted = call.body["os-force_detach"].get("attachment_id")
    worker(call).force_detach_volume(call.context, volume_id=_id(call), attachment_id=wanted)


def note_fault(call: Call) -> None:
    """``os-note_fault``: compute says, for people, why it could not do something with the volume."""
    worker(call).note_volume_fault(call.context, volume_id=_id(call), fault=call.body["os-note_fault"]["fault"])


def upload(call: Call) -> dict[str, Any]:
    """``os-volume_upload_image``: begins to copy a volume into a new image. Raises BadRequest, Conflict."""
    wanted = {key: value for key, value in call.body["os-volume_upload_image"].items() if value is not None}
    if wanted.get("visibility") == "public" and not call.context.is_admin:
        raise Forbidden("only an administrator may make an image public")
    row = read(call, call.path["id"])
    found = worker(call).upload_volume(call.context, volume_id=row["id"], wanted=wanted)
    shown = {
        "id": row["id"],
        "updated_at": stamp(row["updated_at"]),
        "status": "uploading",
        "display_description": row["description"],
        "size": row["size"],
        **{key: value for key, value in found.items() if key not in ("visibility", "protected")},
    }
    if call.version >= (3, 1):
        shown |= {"visibility": found["visibility"], "protected": found["protected"]}
    return {"os-volume_upload_image": shown}


def unmanage(call: Call) -> None:
    """``os-unmanage``: the volume's file stays on the share, its row goes. Raises BadRequest, Conflict."""
    worker(call).unmanage_volume(call.context, volume_id=_id(call))


def set_bootable(call: Call) -> None:
    """``os-set_bootable``: says whether a server may start from the volume."""
    given = call.body["os-set_bootable"]["bootable"]
    worker(call).set_volume_bootable(
        call.context, volume_id=_id(call), bootable=str(given).lower() in ("true", "1", "yes", "on")
    )


def set_image_metadata(call: Call) -> dict[str, Any]:
    """``os-set_image_metadata``: adds or changes keys of the image's metadata; the answer has all of it."""
    metadata = call.body["os-set_image_metadata"]["metadata"]
    return {"metadata": worker(call).set_volume_image_metadata(call.context, volume_id=_id(call), metadata=metadata)}


def unset_image_metadata(call: Call) -> None:
    """``os-unset_image_metadata``: removes one key of the image's metadata. Raises NotFound."""
    worker(call).unset_volume_image_metadata(call.context, volume_id=_id(call), key=call.body["os-unset_image_metadata"]["key"])


def show_image_metadata(call: Call) -> dict[str, Any]:
    """``os-show_image_metadata``: what the image said that the volume was made from."""
    return {"metadata": read(call, call.path["id"])["image_metadata"] or {}}


_PATH = "/volumes/{id}/action"
ROUTES = (
    Route("POST", _PATH, extend, "volume:extend", 202, _EXTEND, "os-extend"),
    Route("POST", _PATH, revert, "volume:revert_to_snapshot", 202, _REVERT, "revert", since=(3, 40)),
    Route("POST", _PATH, undo_revert, "volume:revert_to_snapshot", 202, _empty("os-undo_revert"), "os-undo_revert"),
    Route("POST", _PATH, reset_status, "volume_extension:volume_admin_actions:reset_status", 202, _RESET, "os-reset_status"),
    Route(
        "POST",
        _PATH,
        force_delete,
        "volume_extension:volume_admin_actions:force_delete",
        202,
        _empty("os-force_delete"),
        "os-force_delete",
    ),
    Route(
        "POST",
        _PATH,
        force_detach,
        "volume_extension:volume_admin_actions:force_detach",
        202,
        _FORCE_DETACH,
        "os-force_detach",
    ),
    Route("POST", _PATH, note_fault, "volume:note_fault", 202, _FAULT, "os-note_fault"),
    Route("POST", _PATH, upload, "volume:upload_image", 202, _UPLOAD, "os-volume_upload_image"),
    Route("POST", _PATH, unmanage, "volume_extension:volume_unmanage", 202, _empty("os-unmanage"), "os-unmanage"),
    Route("POST", _PATH, set_bootable, "volume:update", 200, _BOOTABLE, "os-set_bootable"),
    Route("POST", _PATH, set_image_metadata, "volume:update", 200, _IMAGE_METADATA, "os-set_image_metadata"),
    Route("POST", _PATH, unset_image_metadata, "volume:update", 200, _KEY, "os-unset_image_metadata"),
    Route("POST", _PATH, show_image_metadata, "volume:get", 200, _empty("os-show_image_metadata"), "os-show_image_metadata"),
)

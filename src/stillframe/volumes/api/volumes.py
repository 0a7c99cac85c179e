"""/volumes: the requests clients send, and the view they read."""

from collections.abc import Sequence
from typing import Any

from stillframe.chain.names import lookup_id
from stillframe.db import attachments, volume_types, volumes
from stillframe.db.queries import Page
from stillframe.db.rows import AttachmentRow, VolumeRow
from stillframe.errors import BadRequest, Forbidden, NotFound
from stillframe.volumes.rpcapi import worker
from stillframe.web import body, paging
from stillframe.web.route import Call, Route

FILTERS = {
    "metadata": "metadata",
    "name": "name",
    "display_name": "name",
    "status": "status",
    "bootable": "bootable",
    "availability_zone": "availability_zone",
    "project_id": "project_id",
    "group_id": "group_id",
}
_SORTABLE = ("created_at", "updated_at", "name", "size", "status", "id", "availability_zone")
_SOURCES = ("snapshot_id", "source_volid", "imageRef", "image_id", "backup_id")
_NEVER = ("consistencygroup_id",)
_MOST_GIB = (1 << 31) - 1  # a column holds no more; how much a project may have, its quota says
_TEXT = {"type": ["string", "null"], "maxLength": 255}
_CREATE: Any = {
    "type": "object",
    "properties": {
        "volume": {
            "type": "object",
            "properties": {
                "size": {
                    "type": ["integer", "string", "null"],
                    "pattern": r"^[0-9]{1,10}\Z",
                    "minimum": 1,
                    "maximum": _MOST_GIB,
                },
                "name": body.NAME,
                "description": body.DESCRIPTION,
                "display_name": body.NAME,
                "display_description": body.DESCRIPTION,
                "volume_type": _TEXT,
                "metadata": body.METADATA,
                "availability_zone": _TEXT,
                "multiattach": {"type": ["boolean", "null"]},
                **dict.fromkeys((*_SOURCES, *_NEVER, "group_id"), _TEXT),
            },
            "additionalProperties": False,
        },
        "OS-SCH-HNT:scheduler_hints": {"type": ["object", "null"]},
    },
    "required": ["volume"],
    "additionalProperties": False,
}
_KNOWN = frozenset(_CREATE["properties"]["volume"]["properties"])
_CHANGEABLE = {
    "name": body.NAME,
    "description": body.DESCRIPTION,
    "display_name": body.NAME,
    "display_description": body.DESCRIPTION,
    "metadata": body.METADATA,
}
# As in Cinder: until 3.53 a new volume's unknown keys are passed over, and a change may name nothing.
_CREATES = (((3, 0), body.open_to(_CREATE, "volume")), ((3, 53), _CREATE))
_UPDATES = (
    ((3, 0), body.wrapped("volume", _CHANGEABLE)),
    ((3, 53), body.wrapped("volume", _CHANGEABLE, minProperties=1)),
)
METADATA = {
    "type": "object",
    "properties": {"metadata": {**body.METADATA, "type": "object"}},
    "required": ["metadata"],
    "additionalProperties": False,
}
META = {
    "type": "object",
    "properties": {"meta": {**body.METADATA, "type": "object", "minProperties": 1, "maxProperties": 1}},
    "required": ["meta"],
    "additionalProperties": False,
}


def stamp(value: Any) -> str | None:
    """Times as Cinder writes them: naive ISO 8601 with microseconds."""
    return value.isoformat(timespec="microseconds") if value is not None else None


def views(call: Call, rows: Sequence[VolumeRow], extended: bool = True) -> list[dict[str, Any]]:
    """``extended``: with the keys that Cinder shows of a volume that is there, and not of one that is made or changed."""
    with call.api.database.read() as connection:
        attached = attachments.of_volumes(connection, [row["id"] for row in rows])
        types = {row["id"]: row["name"] for row in volume_types.list_all(connection)}
    return [_view(call, row, attached[row["id"]], types[row["volume_type_id"]], extended) for row in rows]


def _view(call: Call, row: VolumeRow, attached: list[AttachmentRow], type_name: str, extended: bool) -> dict[str, Any]:
    view = {
        "id": row["id"],
        "status": row["status"],
        "size": row["size"],
        "availability_zone": row["availability_zone"],
        "created_at": stamp(row["created_at"]),
        "updated_at": stamp(row["updated_at"]),
        "name": row["name"],
        "description": row["description"],
        "volume_type": type_name,
        "snapshot_id": row["snapshot_id"],
        "source_volid": row["source_volid"],
        "metadata": _metadata(row),
        "links": _links(call, row["id"]),
        "user_id": row["user_id"],
        "bootable": "true" if row["bootable"] else "false",
        "encrypted": False,
        "replication_status": None,
        "consistencygroup_id": None,
        "multiattach": False,
        "attachments": [_attachment(entry, call.context.sees_hosts) for entry in attached if entry["status"] == "attached"],
    }
    if extended:
        view |= _extension(call, row)
    if call.context.sees_all_projects:
        view["migration_status"] = None
    if call.additions and row["fault"]:
        view["fault"] = row["fault"]
    for since, name, value in (
        ((3, 13), "group_id", row["group_id"]),
        ((3, 48), "shared_targets", False),
        ((3, 48), "service_uuid", None),
        ((3, 63), "volume_type_id", row["volume_type_id"]),
        ((3, 65), "consumes_quota", True),
    ):
        if call.version >= since:
            view[name] = value
    return view


def _metadata(row: VolumeRow) -> dict[str, str]:
    """With the flag that Cinder shows among the metadata, once somebody has set it or taken it back."""
    return row["metadata"] if row["readonly"] is None else {**row["metadata"], "readonly": str(row["readonly"])}


def _extension(call: Call, row: VolumeRow) -> dict[str, Any]:
    shown: dict[str, Any] = {"os-vol-tenant-attr:tenant_id": row["project_id"]}
    if row["image_metadata"]:
        shown["volume_image_metadata"] = row["image_metadata"]
    if call.context.sees_all_projects:
        place = f"{call.api.settings.host}@{row['backend']}#{row['share']}"
        shown["os-vol-host-attr:host"] = place if row["share"] else None  # no backend took it
        shown["os-vol-mig-status-attr:migstat"] = shown["os-vol-mig-status-attr:name_id"] = None
    return shown


def _attachment(row: AttachmentRow, host_too: bool) -> dict[str, Any]:
    connector = row["connector"] or {}
    return {
        "id": row["volume_id"],
        "attachment_id": row["id"],
        "volume_id": row["volume_id"],
        "server_id": row["instance_id"],
        "host_name": connector.get("host") if host_too else None,
        "device": connector.get("mountpoint"),
        "attached_at": stamp(row["attached_at"]),
    }


def _links(call: Call, volume_id: str) -> list[dict[str, str]]:
    return [
        {"rel": "self", "href": f"{call.base_url}/volumes/{volume_id}"},
        {"rel": "bookmark", "href": f"{call.base_url.rpartition('/v3')[0]}/volumes/{volume_id}"},
    ]


def read(call: Call, volume_id: str) -> VolumeRow:
    """Returns the volume's row. Raises NotFound."""
    with call.api.database.read() as connection:
        row = volumes.get(connection, lookup_id(volume_id), call.project_of_one)
    if row is None:
        raise NotFound(f"Volume {volume_id} could not be found.")
    return row


def _page(call: Call) -> tuple[Page, list[VolumeRow]]:
    page = paging.wanted(call, FILTERS, _SORTABLE)
    with call.api.database.read() as connection:
        return page, volumes.list_page(connection, call.project, page)


def _further(call: Call, page: Page, rows: list[VolumeRow]) -> dict[str, Any]:
    return {**paging.links(call, page, rows, "volumes_links"), **paging.counted(call, page, volumes.count)}


def list_brief(call: Call) -> dict[str, Any]:
    """``GET /volumes``: id, name and links of each volume of the project."""
    page, rows = _page(call)
    brief = [{"id": row["id"], "name": row["name"], "links": _links(call, row["id"])} for row in rows]
    return {"volumes": brief, **_further(call, page, rows)}


def list_detail(call: Call) -> dict[str, Any]:
    """``GET /volumes/detail``: the volumes of the project, each as ``views`` has it."""
    page, rows = _page(call)
    return {"volumes": views(call, rows), **_further(call, page, rows)}


def summary(call: Call) -> dict[str, Any]:
    """``GET /volumes/summary``: number and total size in GiB of the project's volumes, from 3.36 on also their metadata."""
    with call.api.database.read() as connection:
        count, size = volumes.usage(connection, call.context.project_id)
    return {"volume-summary": {"total_count": count, "total_size": size}}


def show(call: Call) -> dict[str, Any]:
    """``GET /volumes/{id}``: one volume. Raises NotFound."""
    return {"volume": views(call, [read(call, call.path["id"])])[0]}


def refuse_private_type(call: Call, name: str | None) -> None:
    """A private type is for administrators and the projects let in; to everybody else it is one that does not exist."""
    with call.api.database.read() as connection:
        found = volume_types.find(connection, name) if name else None
        let_in = volume_types.visible(connection, call.context.project_id)
    if found is not None and not (found["is_public"] or call.context.is_admin or found["id"] in let_in):
        raise NotFound(f"Volume type {name} could not be found.")


def create(call: Call) -> dict[str, Any]:
    """``POST /volumes``: begins a volume, empty or from a snapshot, a volume, a backup or an image.
    Raises as the worker does."""
    wanted = {key: value for key, value in call.body["volume"].items() if value is not None and key in _KNOWN}
    unsupported = sorted(set(_NEVER) & set(wanted))
    if unsupported or wanted.pop("multiattach", False):
        raise BadRequest(f"volumes are for one server and in no consistency group; refused: {unsupported or ['multiattach']}")
    if call.version < (3, 13):
        wanted.pop("group_id", None)  # Cinder does not look at it either
    if "image_id" in wanted:
        wanted.setdefault("imageRef", wanted.pop("image_id"))
    if "group_id" in wanted:
        wanted["group_id"] = lookup_id(wanted["group_id"])
    wanted = _by_new_names(wanted)
    refuse_private_type(call, wanted.get("volume_type"))
    sources = sorted(set(_SOURCES) & set(wanted))
    if len(sources) > 1:
        raise BadRequest(f"a volume has one source at most, not {', '.join(sources)}")
    if "size" in wanted:
        wanted["size"] = int(wanted["size"])
        if not 1 <= wanted["size"] <= _MOST_GIB:
            raise BadRequest(f"Invalid input for field/attribute size: it must be from 1 to {_MOST_GIB}, in GiB")
    return {"volume": views(call, [read(call, _made(call, wanted))], extended=False)[0]}


def _by_new_names(given: dict[str, Any]) -> dict[str, Any]:
    """Names and descriptions by the names that version 2 gave them; a new one wins."""
    for name in ("name", "description"):
        if f"display_{name}" in given:
            given.setdefault(name, given.pop(f"display_{name}"))
            given.pop(f"display_{name}", None)
    return given


def _made(call: Call, wanted: dict[str, Any]) -> str:
    """Returns the id of the volume that is being made."""
    if "imageRef" in wanted:
        return worker(call).create_volume_from_image(call.context, wanted=wanted)
    if "backup_id" in wanted:
        return worker(call).create_volume_from_backup(call.context, wanted=wanted)
    return worker(call).create_volume(call.context, wanted=wanted)


def update(call: Call) -> dict[str, Any]:
    """``PUT /volumes/{id}``: changes name, description or metadata. Raises NotFound."""
    changes = _by_new_names(dict(call.body["volume"]))
    if changes.get("metadata", {}) is None:
        del changes["metadata"]
    volume_id = read(call, call.path["id"])["id"]
    if changes:
        worker(call).update_volume(call.context, volume_id=volume_id, changes=changes)
    return {"volume": views(call, [read(call, volume_id)], extended=False)[0]}


def delete(call: Call) -> None:
    """``DELETE /volumes/{id}``: begins the deletion, with ``cascade`` that of its snapshots too. Raises
    BadRequest, Conflict."""
    cascade, force = (call.query.get(name, "false").lower() in ("true", "1") for name in ("cascade", "force"))
    if force and not call.context.is_admin:
        raise Forbidden("force is for administrators")
    worker(call).delete_volume(call.context, volume_id=read(call, call.path["id"])["id"], cascade=cascade, force=force)


def show_metadata(call: Call) -> dict[str, Any]:
    """``GET /volumes/{id}/metadata``: all keys and values. Raises NotFound."""
    return {"metadata": read(call, call.path["id"])["metadata"]}


def set_metadata(call: Call) -> dict[str, Any]:
    """``POST /volumes/{id}/metadata``: adds or changes the keys that are given, and keeps the others."""
    volume_id = read(call, call.path["id"])["id"]
    return {
        "metadata": worker(call).set_volume_metadata(
            call.context, volume_id=volume_id, metadata=call.body["metadata"], replace=False
        )
    }


def replace_metadata(call: Call) -> dict[str, Any]:
    """``PUT /volumes/{id}/metadata``: the keys that are given become all there are."""
    volume_id = read(call, call.path["id"])["id"]
    return {
        "metadata": worker(call).set_volume_metadata(
            call.context, volume_id=volume_id, metadata=call.body["metadata"], replace=True
        )
    }


def show_metadata_key(call: Call) -> dict[str, Any]:
    """``GET /volumes/{id}/metadata/{key}``: one value. Raises NotFound."""
    metadata, key = read(call, call.path["id"])["metadata"], call.path["key"]
    if key not in metadata:
        raise NotFound(f"Volume {call.path['id']} has no metadata with key {key!r}.")
    return {"meta": {key: metadata[key]}}


def set_metadata_key(call: Call) -> dict[str, Any]:
    """``PUT /volumes/{id}/metadata/{key}``: sets one value. Raises BadRequest when the body names another key."""
    if list(call.body["meta"]) != [call.path["key"]]:
        raise BadRequest("the key in the body is not the one in the path")
    volume_id = read(call, call.path["id"])["id"]
    worker(call).set_volume_metadata(call.context, volume_id=volume_id, metadata=call.body["meta"], replace=False)
    return {"meta": call.body["meta"]}


def delete_metadata_key(call: Call) -> None:
    """``DELETE /volumes/{id}/metadata/{key}``: removes one key. Raises NotFound."""
    worker(call).delete_volume_metadata_key(call.context, volume_id=read(call, call.path["id"])["id"], key=call.path["key"])


ROUTES = (
    Route("GET", "/volumes", list_brief, "volume:get"),
    Route("GET", "/volumes/detail", list_detail, "volume:get"),
    Route("GET", "/volumes/summary", summary, "volume:get", since=(3, 12)),
    Route("GET", "/volumes/{id}", show, "volume:get"),
    Route("POST", "/volumes", create, "volume:create", 202, _CREATES),
    Route("PUT", "/volumes/{id}", update, "volume:update", 200, _UPDATES),
    Route("DELETE", "/volumes/{id}", delete, "volume:delete", 202),
    Route("GET", "/volumes/{id}/metadata", show_metadata, "volume:get"),
    Route("POST", "/volumes/{id}/metadata", set_metadata, "volume:update", 200, METADATA),
    Route("PUT", "/volumes/{id}/metadata", replace_metadata, "volume:update", 200, METADATA),
    Route("GET", "/volumes/{id}/metadata/{key}", show_metadata_key, "volume:get"),
    Route("PUT", "/volumes/{id}/metadata/{key}", set_metadata_key, "volume:update", 200, META),
    Route("DELETE", "/volumes/{id}/metadata/{key}", delete_metadata_key, "volume:update", 200),
)

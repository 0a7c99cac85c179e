"""/os-volume-transfer, and /volume-transfers from 3.55 on: volumes that are offered to another project."""

from typing import Any

from stillframe.chain.names import lookup_id
from stillframe.db import transfers
from stillframe.db.rows import VolumeTransferRow
from stillframe.errors import NotFound
from stillframe.volumes.api.volumes import read as read_volume
from stillframe.volumes.api.volumes import stamp
from stillframe.volumes.rpcapi import worker
from stillframe.web import body, paging
from stillframe.web.route import Call, Route, Version

FILTERS = {"name": "name", "display_name": "name", "volume_id": "volume_id"}
_SORTABLE = ("created_at", "updated_at", "name", "id")
_OFFER = {"volume_id": {"type": "string", "maxLength": 36}, "name": body.NAME}
_CREATE = body.wrapped("transfer", _OFFER, ("volume_id",))
_CREATES = (
    ((3, 0), _CREATE),
    ((3, 55), body.wrapped("transfer", {**_OFFER, "no_snapshots": {"type": ["boolean", "null"]}}, ("volume_id",))),
)
_ACCEPT = body.wrapped("accept", {"auth_key": {"type": ["string", "integer"], "maxLength": 255}}, ("auth_key",))


def _links(call: Call, transfer_id: str) -> list[dict[str, str]]:
    root = call.base_url.rpartition("/v3")[0]
    return [
        {"rel": "self", "href": f"{call.base_url}/os-volume-transfer/{transfer_id}"},
        {"rel": "bookmark", "href": f"{root}/os-volume-transfer/{transfer_id}"},
    ]


def _brief(call: Call, row: VolumeTransferRow) -> dict[str, Any]:
    return {"id": row["id"], "volume_id": row["volume_id"], "name": row["name"], "links": _links(call, row["id"])}


def _view(call: Call, row: VolumeTransferRow) -> dict[str, Any]:
    view = {**_brief(call, row), "created_at": stamp(row["created_at"])}
    if call.version >= (3, 55):
        view["no_snapshots"] = row["no_snapshots"]
    if call.version >= (3, 57):  # one that was accepted is gone
        view |= {"source_project_id": row["project_id"], "destination_project_id": None, "accepted": False}
    return view


def _read(call: Call, transfer_id: str) -> VolumeTransferRow:
    with call.api.database.read() as connection:
        row = transfers.get(connection, lookup_id(transfer_id), call.project_of_one)
    if row is None:
        raise NotFound(f"Transfer {transfer_id} could not be found.")
    return row


def _list(call: Call, detail: bool) -> dict[str, Any]:
    page = paging.wanted(call, FILTERS, _SORTABLE)
    with call.api.database.read() as connection:
        rows = transfers.list_page(connection, call.project, page)
    shown = [_view(call, row) if detail else _brief(call, row) for row in rows]
    return {"transfers": shown, **paging.links(call, page, rows, "transfers_links")}


def list_brief(call: Call) -> dict[str, Any]:
    """``GET /os-volume-transfer``: what the project offers."""
    return _list(call, detail=False)


def list_detail(call: Call) -> dict[str, Any]:
    """``GET /os-volume-transfer/detail``: what the project offers, each as ``show`` has it."""
    return _list(call, detail=True)


def show(call: Call) -> dict[str, Any]:
    """``GET /os-volume-transfer/{id}``: one offer of the project. Raises NotFound."""
    return {"transfer": _view(call, _read(call, call.path["id"]))}


def create(call: Call) -> dict[str, Any]:
    """``POST /os-volume-transfer``: offers a volume; the answer has the key, which is shown nowhere else. Raises BadRequest."""
    wanted = call.body["transfer"]
    name = (wanted.get("name") or "").strip() or None
    made = worker(call).create_transfer(
        call.context,
        volume_id=read_volume(call, wanted["volume_id"])["id"],
        name=name,
        no_snapshots=bool(wanted.get("no_snapshots")),
    )
    return {"transfer": {**_view(call, _read(call, made["id"])), "auth_key": made["auth_key"]}}


def accept(call: Call) -> dict[str, Any]:
    """``POST /os-volume-transfer/{id}/accept``: the volume is the caller's. Raises NotFound for a wrong key."""
    key = str(call.body["accept"]["auth_key"])
    found = worker(call).accept_transfer(call.context, transfer_id=call.path["id"], auth_key=key)
    return {"transfer": {**found, "links": _links(call, found["id"])}}


def delete(call: Call) -> None:
    """``DELETE /os-volume-transfer/{id}``: the project keeps its volume. Raises NotFound."""
    worker(call).delete_transfer(call.context, transfer_id=_read(call, call.path["id"])["id"])


def _routes(path: str, since: Version) -> tuple[Route, ...]:
    return (
        Route("GET", path, list_brief, "volume:get_transfer", since=since),
        Route("GET", f"{path}/detail", list_detail, "volume:get_transfer", since=since),
        Route("GET", f"{path}/{{id}}", show, "volume:get_transfer", since=since),
        Route("POST", path, create, "volume:create_transfer", 202, _CREATES, since=since),
        Route("POST", f"{path}/{{id}}/accept", accept, "volume:accept_transfer", 202, _ACCEPT, since=since),
        Route("DELETE", f"{path}/{{id}}", delete, "volume:delete_transfer", 202, since=since),
    )


ROUTES = (*_routes("/os-volume-transfer", (3, 0)), *_routes("/volume-transfers", (3, 55)))

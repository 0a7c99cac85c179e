"""/messages: why something that was accepted could not be done (microversion 3.3)."""

from typing import Any

from stillframe.chain.names import lookup_id
from stillframe.db import messages
from stillframe.db.rows import MessageRow
from stillframe.errors import NotFound
from stillframe.volumes.api.volumes import stamp
from stillframe.volumes.rpcapi import worker
from stillframe.web import paging
from stillframe.web.route import Call, Route

FILTERS = {
    "resource_uuid": "resource_uuid",
    "resource_type": "resource_type",
    "event_id": "event_id",
    "request_id": "request_id",
}
_SORTABLE = ("created_at", "id", "event_id", "resource_type", "resource_uuid", "request_id")


def _view(call: Call, row: MessageRow) -> dict[str, Any]:
    root = call.base_url.rpartition("/v3")[0]
    return {
        "id": row["id"],
        "event_id": row["event_id"],
        "user_message": row["text"],
        "message_level": "ERROR",
        "created_at": stamp(row["created_at"]),
        "guaranteed_until": stamp(row["expires_at"]),
        "request_id": row["request_id"],
        "resource_type": row["resource_type"],
        "resource_uuid": row["resource_uuid"],
        "links": [
            {"rel": "self", "href": f"{call.base_url}/messages/{row['id']}"},
            {"rel": "bookmark", "href": f"{root}/messages/{row['id']}"},
        ],
    }


def _read(call: Call) -> MessageRow:
    with call.api.database.read() as connection:
        row = messages.get(connection, lookup_id(call.path["id"]), call.project_of_one)
    if row is None:
        raise NotFound(f"Message {call.path['id']} could not be found.")
    return row


def list_all(call: Call) -> dict[str, Any]:
    """``GET /messages``: the messages of the project."""
    page = paging.wanted(call, FILTERS, _SORTABLE)
    with call.api.database.read() as connection:
        rows = messages.list_page(connection, call.project, page)
    return {"messages": [_view(call, row) for row in rows], **paging.links(call, page, rows, "messages_links")}


def show(call: Call) -> dict[str, Any]:
    """``GET /messages/{id}``: one message. Raises NotFound."""
    return {"message": _view(call, _read(call))}


def delete(call: Call) -> None:
    """``DELETE /messages/{id}``: removes it. Raises NotFound."""
    worker(call).delete_message(call.context, message_id=_read(call)["id"])


ROUTES = (
    Route("GET", "/messages", list_all, "message:get_all", since=(3, 3)),
    Route("GET", "/messages/{id}", show, "message:get", since=(3, 3)),
    Route("DELETE", "/messages/{id}", delete, "message:delete", 204, since=(3, 3)),
)

"""/os-set-metadata: what compute says of the snapshots of a set, all of them in one request. Not Cinder's."""

from typing import Any

from stillframe.chain.names import canonical_id
from stillframe.volumes.api import snapshots
from stillframe.volumes.rpcapi import worker
from stillframe.web import body
from stillframe.web.route import Call, Route, Schema

_PATH = "/os-set-metadata"
_MOST = 128
_ID = {"type": "string", "maxLength": 36}


def _several(action: str, properties: dict[str, Any], required: tuple[str, ...]) -> Schema:
    one = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
    return body.wrapped(
        action, {"snapshots": {"type": "array", "items": one, "minItems": 1, "maxItems": _MOST}}, ("snapshots",)
    )


_CREATE = _several("create", {**snapshots.RECORDED, "volume_id": _ID}, ("volume_id",))
_FINALIZE = _several("finalize", {**snapshots.FINALIZED, "snapshot_id": _ID}, ("snapshot_id", "status"))


def _given(call: Call, action: str, key: str) -> list[dict[str, Any]]:
    """What was asked for each, without what is null; ``key`` names an id. Raises BadRequest for what can be nothing's id."""
    found = [{name: value for name, value in each.items() if value is not None} for each in call.body[action]["snapshots"]]
    return [{**each, key: canonical_id(each[key], key)} for each in found]


def create(call: Call) -> dict[str, Any]:
    """``create``: as ``os-create_snapshot_metadata`` for each of the volumes, for all or for none."""
    ids = worker(call).create_set_metadata(call.context, asked=_given(call, "create", "volume_id"))
    return {"snapshots": [snapshots.view_with_file(call, snapshots.read(call, each)) for each in ids]}


def finalize(call: Call) -> None:
    """``finalize``: as ``os-finalize_snapshot_metadata`` for each of the snapshots, for all or for none."""
    worker(call).finalize_set_metadata(call.context, asked=_given(call, "finalize", "snapshot_id"))


ROUTES = (
    Route("POST", _PATH, create, "volume:create_snapshot_metadata", 202, _CREATE, action="create"),
    Route("POST", _PATH, finalize, "volume:finalize_snapshot_metadata", 202, _FINALIZE, action="finalize"),
)

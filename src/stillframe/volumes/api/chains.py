"""/volumes/{id}/stillframe-chain: the files a volume is made of. Not Cinder's; names on a share hold ids only."""

from typing import Any

from stillframe.volumes.api.volumes import read
from stillframe.volumes.rpcapi import worker
from stillframe.web.route import Call, Route


def show(call: Call) -> dict[str, Any]:
    """``GET /volumes/{id}/stillframe-chain``: the files of a volume, what backs them and who needs them. Raises NotFound."""
    return {"chain": worker(call).show_chain(call.context, volume_id=read(call, call.path["id"])["id"])}


ROUTES = (Route("GET", "/volumes/{id}/stillframe-chain", show, "volume:get"),)

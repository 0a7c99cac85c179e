"""The client library's noun: backing chains, over any adapter that carries credentials for block storage."""

from typing import Any

from stillframe.client import listing
from stillframe.client.caller import Caller

Document = dict[str, Any]


class Chains:
    """Shows the files a volume is made of; the volume may be named by id or by name."""

    def __init__(self, volumes: Any) -> None:
        self._volumes = Caller(volumes, "volume")

    def show(self, name_or_id: str) -> Document:
        """Returns the chain's document. Raises NotFound, or BadRequest when a name fits several volumes."""
        found = listing.find(self._volumes.get, listing.VOLUMES, name_or_id)
        document: Document = self._volumes.get(f"/volumes/{found['id']}/stillframe-chain")["chain"]
        return document

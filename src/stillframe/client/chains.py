"""The client library's noun: backing chains, over any adapter that carries credentials for block storage."""

from typing import Any

from stillframe.client import listing
from stillframe.client.faults import error_of

Document = dict[str, Any]


class Chains:
    """Shows the files a volume is made of; the volume may be named by id or by name."""

    def __init__(self, volumes: Any) -> None:
        self._volumes = volumes

    def _get(self, path: str) -> Any:
        answer = self._volumes.request(path, "GET", raise_exc=False)
        if answer.status_code >= 400:
            raise error_of(answer.status_code, answer, "volume")
        return answer.json()

    def show(self, name_or_id: str) -> Document:
        """Returns the chain's document. Raises NotFound, or BadRequest when a name fits several volumes."""
        found = listing.find(self._get, listing.VOLUMES, name_or_id)
        document: Document = self._get(f"/volumes/{found['id']}/stillframe-chain")["chain"]
        return document

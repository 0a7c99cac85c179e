"""The client library's noun: backing chains, over any adapter that carries credentials for block storage."""

from typing import Any
from urllib.parse import quote

from stillframe.client.session import error_of
from stillframe.errors import BadRequest, NotFound

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
        try:
            return self._chain(name_or_id)
        except (NotFound, BadRequest):
            named = self._get(f"/volumes?name={quote(name_or_id, safe='')}")["volumes"]
        if not named:
            raise NotFound(f"no volume has the name or id {name_or_id!r}")
        if len(named) > 1:
            raise BadRequest(f"{len(named)} volumes have the name {name_or_id!r}: {', '.join(each['id'] for each in named)}")
        return self._chain(named[0]["id"])

    def _chain(self, volume_id: str) -> Document:
        found: Document = self._get(f"/volumes/{quote(volume_id, safe='')}/stillframe-chain")["chain"]
        return found

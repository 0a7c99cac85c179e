"""Block storage from a request to the journal's end: the whole application over the real manager, and a share in memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from falcon import testing

from stillframe.volumes.api.routes import SERVICE
from stillframe.volumes.manager import Manager
from tests.unit.volumes.site import Site
from tests.unit.web import shell

MEMBER, OTHER, ADMIN = "member reader", "other:member reader", "admin member reader"


class Rest:
    """Asks as a member of the project ``demo``, at the highest microversion."""

    def __init__(self, site: Site, directory: Path) -> None:
        self.site = site
        answers = Manager(site.worker, lambda: None).methods()
        self._shell = shell.Site(site.worker.database, directory, SERVICE, answers)

    def ask(self, method: str, path: str, body: Any = None, who: str = MEMBER, version: str = "3.71") -> testing.Result:
        """Sends one request below /v3."""
        headers = {"OpenStack-API-Version": f"volume {version}"}
        more: Mapping[str, Any] = {} if body is None else {"json": body}
        return self._shell.ask(method, f"/v3{path}", who=who, headers=headers, **more)

    def ok(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """As ``ask``, for what must succeed; returns the document. The journal is at its end afterwards."""
        answer = self.ask(method, path, body, **more)
        assert answer.status_code < 300, answer.text
        self.site.end()
        return answer.json if answer.content else None

    def refused(self, status: int, method: str, path: str, body: Any = None, **more: Any) -> str:
        """As ``ask``, for what must fail; returns the message."""
        answer = self.ask(method, path, body, **more)
        assert answer.status_code == status, answer.text
        return str(shell.fault(answer)["message"])

    def volume(self, **wanted: Any) -> str:
        """Makes a volume, available when this returns."""
        who = {"who": wanted.pop("who")} if "who" in wanted else {}
        made = self.ok("POST", "/volumes", {"volume": {"size": 1, **wanted}}, **who)["volume"]
        return str(made["id"])

    def status(self, volume_id: str) -> str:
        return str(self.ok("GET", f"/volumes/{volume_id}", who=ADMIN)["volume"]["status"])

    def act(self, volume_id: str, action: str, document: Any = None, **more: Any) -> Any:
        """An action on a volume that must succeed."""
        return self.ok("POST", f"/volumes/{volume_id}/action", {action: document}, **more)

"""An application over a table, a fake bus and users that are named in the header by their role."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from falcon import testing

from stillframe.compute import policies as compute_policies
from stillframe.compute.api.routes import SERVICE as COMPUTE
from stillframe.context import Context
from stillframe.db.engine import Database
from stillframe.errors import Unauthorized
from stillframe.volumes import policies as volumes_policies
from stillframe.volumes.api.routes import SERVICE as VOLUMES
from stillframe.web import application
from stillframe.web.auth import BasicAuth, Headers
from stillframe.web.policy import Enforcer
from stillframe.web.route import ApiContext, Service
from tests.unit.builders import Bus, settings

SERVICES = {"volumes": VOLUMES, "compute": COMPUTE}
RULES = {"volumes": volumes_policies.RULES, "compute": compute_policies.RULES}


class ByName(BasicAuth):
    """Takes the Authorization header for the caller's roles, separated by spaces; a project may stand before a colon."""

    def __init__(self) -> None:
        pass

    def identify(self, headers: Headers, request_id: str, peer: str = "") -> Context:
        authorization = headers.get("authorization")
        if authorization is None:
            raise Unauthorized("who are you?")
        project, _, roles = authorization.rpartition(":")
        return Context("somebody", project or "demo", tuple(roles.split()), request_id)


class Site:
    """One service, asked without a socket."""

    def __init__(
        self,
        database: Database,
        state_dir: Path,
        service: Service,
        answers: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> None:
        self.bus = Bus(answers)
        rules = RULES["volumes" if service.name == "volume" else "compute"]
        door = ApiContext(database, self.bus, settings(state_dir), endpoint=endpoint)
        pages = {"/healthcheck": lambda _req, resp: setattr(resp, "media", {"open": True})}
        self._client = testing.TestClient(application.make(service, door, ByName(), Enforcer(rules), pages))

    def ask(self, method: str, path: str, **more: Any) -> testing.Result:
        """``who`` is the Authorization header, a member by default; the rest goes to falcon's client."""
        who = more.pop("who", "member reader")
        headers = {**({"Authorization": who} if who is not None else {}), **more.pop("headers", {})}
        result: testing.Result = self._client.simulate_request(method, path, headers=headers, **more)
        return result


def fault(answer: testing.Result) -> dict[str, Any]:
    """The one fault of an error's body."""
    ((_, found),) = answer.json.items()
    return dict(found)

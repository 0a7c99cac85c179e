"""The route table's values: what a service answers to, under which policy, and what a handler is given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stillframe.config import Settings
from stillframe.context import Context
from stillframe.db.engine import Database
from stillframe.rpc.bus import Bus
from stillframe.web.withheld import Withheld

Version = tuple[int, int]
Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Door:
    """What a handler may use: the database for reading, and the bus to the worker for everything else. ``withheld`` is what
    answers are told without; None: what ``settings`` names."""

    database: Database
    bus: Bus
    settings: Settings
    withheld: Withheld | None = None


@dataclass(frozen=True)
class Call:
    """One request as a handler sees it. ``body`` was checked against the route's schema."""

    context: Context
    version: Version
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any
    base_url: str  # of this API version, without a slash at the end
    collection_url: str  # what was asked, without the query
    door: Door

    @property
    def explains(self) -> bool:
        """Tells whether only the cost is asked for: with ``?explain=1`` nothing is done."""
        return self.query.get("explain", "").lower() in ("1", "true")

    @property
    def project(self) -> str | None:
        """The project whose rows are seen: None, all of them, for the service role and admins that ask for it."""
        asked = self.query.get("all_tenants", "false").lower() in ("", "1", "true", "yes")
        if self.context.is_service or (self.context.is_admin and asked):
            return None
        return self.context.project_id

    @property
    def project_of_one(self) -> str | None:
        """As ``project`` for a single resource named by id: admins see every project's."""
        return None if self.context.sees_all_projects else self.context.project_id


@dataclass(frozen=True)
class Route:
    """One line of the table. Every route names its policy rule: what is not allowed by name is denied.

    ``action`` is the single key of an action body (``POST .../action``); ``since`` the first microversion that has it.
    ``explain`` answers instead of ``handler`` when a request that changes something asks for its cost only.
    """

    method: str
    path: str
    handler: Callable[[Call], Any]
    policy: str
    status: int = 200
    schema: Schema | None = None
    action: str | None = None
    since: Version = (0, 0)
    explain: Callable[[Call], Any] | None = None


@dataclass(frozen=True)
class Service:
    """What makes one REST service of a route table."""

    name: str  # "volume" or "compute": the word in OpenStack-API-Version
    prefix: str  # "/v3" or "/v2.1"
    minimum: Version
    maximum: Version
    routes: tuple[Route, ...]
    version_document: Callable[[str], dict[str, Any]]
    root_document: Callable[[str], tuple[int, dict[str, Any]]]
    legacy_version_header: str | None = None

    @cached_property
    def collections(self) -> frozenset[str]:
        """First path segments of the table; any other one there is a project id."""
        return frozenset(route.path.split("/")[1] for route in self.routes)

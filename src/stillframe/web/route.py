"""The values of the route table: what a service answers to, under which policy, and what a handler gets."""

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
Schemas = tuple[tuple[Version, Schema], ...]  # each from its microversion on, the oldest first


@dataclass(frozen=True)
class ApiContext:
    """What a handler may use: the database for reading, and the bus to the worker for everything else.

    ``withheld`` removes from answers what their reader may not see; None: what ``settings`` names. ``endpoint`` is the URL that
    clients use, without the version; None: the one that each request has.
    """

    database: Database
    bus: Bus
    settings: Settings
    withheld: Withheld | None = None
    endpoint: str | None = None


@dataclass(frozen=True)
class Call:
    """One request as a handler sees it. ``body`` was checked against the route's schema."""

    context: Context
    version: Version
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any
    base_url: str  # the URL of this API version, without a slash at the end
    collection_url: str  # the URL of the request, without the query
    api: ApiContext
    additions: bool = False  # the answer may have keys that Cinder and Nova do not have

    @property
    def explains(self) -> bool:
        """Tells whether the request asks only for the cost: with ``?explain=1`` nothing is done."""
        return self.query.get("explain", "").lower() in ("1", "true")

    @property
    def project(self) -> str | None:
        """The project whose rows are visible. None: all projects, for the service role and for admins that ask for all."""
        asked = self.query.get("all_tenants", "false").lower() in ("", "1", "true", "yes")
        if self.context.is_service or (self.context.is_admin and asked):
            return None
        return self.context.project_id

    @property
    def project_of_one(self) -> str | None:
        """Like ``project``, for a single resource named by id: admins see those of every project."""
        return None if self.context.sees_all_projects else self.context.project_id


@dataclass(frozen=True)
class Route:
    """One line of the table. Every route names its policy rule; a call that no rule allows is denied.

    ``action`` is the single key of an action body (``POST .../action``); ``since`` is the first microversion that has it.
    ``explain`` answers instead of ``handler`` when a request for a change asks only for its cost.
    """

    method: str
    path: str
    handler: Callable[[Call], Any]
    policy: str
    status: int = 200
    schema: Schema | Schemas | None = None
    action: str | None = None
    since: Version = (0, 0)
    explain: Callable[[Call], Any] | None = None

    @property
    def newest_schema(self) -> Schema | None:
        """The schema of the highest microversion."""
        return self.schema[-1][1] if isinstance(self.schema, tuple) else self.schema

    def schema_at(self, version: Version) -> Schema | None:
        """Returns what the body must fit at a microversion; None: it is not looked at."""
        if isinstance(self.schema, tuple):
            return next((schema for since, schema in reversed(self.schema) if version >= since), None)
        return self.schema


@dataclass(frozen=True)
class Service:
    """What turns a route table into a REST service."""

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
        """The first path segments of the table; any other first segment is a project id."""
        return frozenset(route.path.split("/")[1] for route in self.routes)

    @cached_property
    def by_id(self) -> frozenset[str]:
        """Paths below which one thing is named by its id. With a slash at the end they name the one whose id is empty."""
        paths = (route.path.rpartition("/") for route in self.routes)
        return frozenset(before for before, _, last in paths if before.count("/") == 1 and last.startswith("{"))

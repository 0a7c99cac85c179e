"""Makes a WSGI application of a service's route table."""

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import falcon

from stillframe.context import Context, bind_log, new_request_id
from stillframe.db.engine import AWAY
from stillframe.errors import BadRequest, NotFound, PathNotFound, ServiceUnavailable, StillframeError, TooLarge
from stillframe.printable import unsafe
from stillframe.web import body, faults, versions
from stillframe.web.auth import Authenticator
from stillframe.web.policy import Enforcer
from stillframe.web.route import Call, Door, Route, Service, Version
from stillframe.web.withheld import Withheld

LOG = logging.getLogger(__name__)
LOGGED = 500  # letters of a path or method in a log line; a request may have 64 KiB of them
_PUBLIC = ("/", "/healthcheck", "/metrics")


class _Shell:
    """Middleware: request id, who asks, which version, and the project id that may stand in the path."""

    def __init__(self, service: Service, auth: Authenticator, withheld: Withheld) -> None:
        self._service = service
        self._auth = auth
        self._withheld = withheld

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        req.context.request_id = new_request_id()
        req.context.withheld = self._withheld
        bind_log(Context("", "", (), req.context.request_id))
        path = req.path.rstrip("/") or "/"
        req.path = path
        if path in _PUBLIC or path == self._service.prefix:
            return
        if not path.startswith(self._service.prefix + "/"):
            raise PathNotFound("The resource could not be found.")
        headers = {name.lower(): value for name, value in req.headers.items()}
        req.context.user = self._auth.identify(headers, req.context.request_id, req.remote_addr)
        bind_log(req.context.user)
        if req.context.user.sees_hosts:
            req.context.withheld = None
        req.context.version = versions.requested(self._service, headers)
        req.path = self._without_project(path, req.context.user)

    def _without_project(self, path: str, context: Context) -> str:
        first, _, rest = path.removeprefix(self._service.prefix + "/").partition("/")
        if first in self._service.collections or not rest:
            return path
        if rest.partition("/")[0] not in self._service.collections:
            raise PathNotFound("The resource could not be found.")
        if first != context.project_id and not context.sees_all_projects:
            raise BadRequest(f"Malformed request url: the project {first!r} is not the caller's")
        return f"{self._service.prefix}/{rest}"

    def process_response(self, req: falcon.Request, resp: falcon.Response, _resource: object, _succeeded: bool) -> None:
        resp.set_header("x-openstack-request-id", req.context.request_id)
        if self._service.name == "compute":
            resp.set_header("x-compute-request-id", req.context.request_id)
        if str(resp.status).startswith("401"):
            resp.set_header("WWW-Authenticate", self._auth.challenge)
        version: Version | None = getattr(req.context, "version", None)
        if version is not None:
            resp.set_header("OpenStack-API-Version", f"{self._service.name} {versions.show(version)}")
            resp.append_header("Vary", "OpenStack-API-Version")
            if self._service.legacy_version_header:
                resp.set_header(self._service.legacy_version_header, versions.show(version))
                resp.append_header("Vary", self._service.legacy_version_header)
        LOG.info("%s %s -> %s", req.method[:LOGGED], req.path[:LOGGED], resp.status)


class _Resource:
    """All routes of one path."""

    def __init__(self, service: Service, enforcer: Enforcer, door: Door, routes: list[Route]) -> None:
        self._service = service
        self._enforcer = enforcer
        self._door = door
        self._actions = {route.action: route for route in routes if route.action}
        self._methods = {route.method: route for route in routes if not route.action}
        for method in {route.method for route in routes}:
            setattr(self, f"on_{method.lower()}", self._serve)

    def _serve(self, req: falcon.Request, resp: falcon.Response, **path: str) -> None:
        if any(unsafe(value) for value in path.values()):  # nothing has such a name, and none may be kept or shown
            raise NotFound("The resource could not be found.")
        raw = _read(req)
        document = body.parse(raw) if raw else None
        route = self._action(document) if self._actions else self._methods[req.method]
        version: Version = req.context.version
        if version < route.since:
            raise PathNotFound("The resource could not be found.")
        self._enforcer.check(route.policy, req.context.user)
        if route.schema is not None:
            body.check(document, route.schema)
        base = f"{req.prefix}{self._service.prefix}"
        call = Call(req.context.user, version, path, _query(req), document, base, f"{req.prefix}{req.path}", self._door)
        if call.explains and route.method != "GET":
            resp.media = _withheld(req, {"explanation": _explain(route, call)})
            return
        answer = route.handler(call)
        resp.status = falcon.code_to_http_status(route.status)
        if answer is not None and route.status != 204:
            resp.media = _withheld(req, answer)

    def _action(self, document: Any) -> Route:
        if not isinstance(document, dict) or len(document) != 1:
            raise BadRequest("the body of an action must hold exactly one key, the action")
        (name,) = document
        if name not in self._actions:
            raise BadRequest(
                f"There is no such action: {name[:80]}. Verify the request body and Content-Type header and try again."
            )
        return self._actions[name]


def _withheld(req: falcon.Request, answer: Any, said: bool = False) -> Any:
    """Only who may see hosts is told where they keep things."""
    withheld: Withheld | None = req.context.withheld
    return answer if withheld is None else withheld.document(answer, said)


def _explain(route: Route, call: Call) -> Any:
    """Whoever asks for the cost only never gets the thing itself. Raises BadRequest where no cost can be told."""
    if route.explain is None:
        raise BadRequest(
            "the cost of this request cannot be told beforehand: it copies nothing of a volume. Nothing was done;"
            " leave out explain"
        )
    return route.explain(call)


def _query(req: falcon.Request) -> dict[str, str]:
    """The query; of a parameter given several times, the last. Raises BadRequest for text no resource may hold."""
    query = {name: value if isinstance(value, str) else value[-1] for name, value in req.params.items()}
    for text in (*query, *query.values()):
        found = unsafe(text)
        if found is not None:
            raise BadRequest(f"the query holds {found}, a control character or one that cannot be shown: leave it out")
    return query


def _read(req: falcon.Request) -> bytes:
    if (req.content_length or 0) > body.LIMIT:
        raise TooLarge(f"the body is longer than {body.LIMIT} bytes")
    raw: bytes = req.bounded_stream.read(body.LIMIT + 1)
    if raw and "json" not in (req.content_type or "application/json"):
        raise falcon.HTTPUnsupportedMediaType(description="only application/json is understood")
    return raw


class _Document:
    """A page that needs no credentials: discovery, health, metrics."""

    def __init__(self, make: Callable[[falcon.Request, falcon.Response], None]) -> None:
        self._make = make

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._make(req, resp)


def make(
    service: Service,
    door: Door,
    auth: Authenticator,
    enforcer: Enforcer,
    pages: dict[str, Callable[[falcon.Request, falcon.Response], None]],
) -> Callable[..., Any]:
    """Returns the WSGI application; ``pages`` are further open documents by path."""
    application = falcon.App(middleware=[_Shell(service, auth, door.withheld or Withheld(door.settings))])
    application.req_options.keep_blank_qs_values = True
    application.req_options.auto_parse_qs_csv = False
    application.add_error_handler(Exception, _unexpected)
    application.add_error_handler(falcon.HTTPError, _http_error)
    application.add_error_handler(StillframeError, _told)
    application.add_error_handler(AWAY, _database_away)
    by_path: dict[str, list[Route]] = defaultdict(list)
    for route in service.routes:
        by_path[route.path].append(route)
    for path, routes in by_path.items():
        application.add_route(service.prefix + path, _Resource(service, enforcer, door, routes))
    application.add_route("/", _Document(lambda req, resp: _root(service, req, resp)))
    application.add_route(service.prefix, _Document(lambda req, resp: _version(service, req, resp)))
    for path, page in pages.items():
        application.add_route(path, _Document(page))
    return application


def _root(service: Service, req: falcon.Request, resp: falcon.Response) -> None:
    status, resp.media = service.root_document(req.prefix)
    resp.status = falcon.code_to_http_status(status)


def _version(service: Service, req: falcon.Request, resp: falcon.Response) -> None:
    resp.media = service.version_document(req.prefix)


def _told(req: falcon.Request, resp: falcon.Response, error: StillframeError, _params: object) -> None:
    resp.status = falcon.code_to_http_status(error.status)
    resp.media = _withheld(req, faults.of_error(error), said=True)
    if error.status == 503:
        resp.set_header("Retry-After", "5")
    if error.status == 429:
        resp.set_header("Retry-After", str(error.details["retry_after"]))
    if error.status == 500:
        LOG.error("%s: %s", error.code, error.message, exc_info=error)


def _http_error(_req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError, _params: object) -> None:
    status = int(str(error.status)[:3])
    resp.status = error.status
    resp.media = faults.of_status(status, error.description or error.title or "error")
    for name, value in dict(error.headers or {}).items():
        resp.set_header(name, value)


def _database_away(req: falcon.Request, resp: falcon.Response, error: Exception, params: object) -> None:
    LOG.error("%s %s: the database does not answer", req.method, req.path[:LOGGED], exc_info=error)
    _told(req, resp, ServiceUnavailable("the service's database does not answer"), params)


def _unexpected(req: falcon.Request, resp: falcon.Response, error: Exception, _params: object) -> None:
    LOG.error("%s %s: unexpected error, a defect of Stillframe", req.method, req.path[:LOGGED], exc_info=error)
    resp.status = falcon.HTTP_500
    resp.media = faults.of_status(500, f"the service had an unexpected error; request {req.context.request_id}")

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
from stillframe.web.route import ApiContext, Call, Route, Service, Version
from stillframe.web.withheld import Withheld

LOG = logging.getLogger(__name__)
LOGGED = 500  # characters of a path or method in a log line; a request may have 64 KiB of them
_PUBLIC = ("/", "/healthcheck", "/metrics")


class _Known(falcon.Context):
    """What is known of a request from its first moment, because Falcon refuses some methods (WEBSOCKET) before any
    middleware."""

    def __init__(self) -> None:
        self.request_id = new_request_id()
        bind_log(Context("", "", (), self.request_id))


class _Request(falcon.Request):
    context_type = _Known


class _Shell:
    """Middleware: who asks, the version, and the project id that the path may have."""

    def __init__(self, service: Service, auth: Authenticator, withheld: Withheld) -> None:
        self._service = service
        self._auth = auth
        self._withheld = withheld

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        req.context.withheld = self._withheld
        path, slash = req.path.rstrip("/") or "/", req.path.endswith("/")
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
        req.context.additions = versions.wants_additions(headers)
        req.path = self._without_project(path, req.context.user)
        if slash and req.path.removeprefix(self._service.prefix) in self._service.by_id:
            raise PathNotFound("The resource could not be found: the id after the last slash is empty.")

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
            resp.append_header("Vary", versions.ADDITIONS)
        LOG.info("%s %s -> %s", req.method[:LOGGED], req.path[:LOGGED], resp.status)


class _Resource:
    """All routes of one path."""

    def __init__(self, service: Service, enforcer: Enforcer, api: ApiContext, routes: list[Route]) -> None:
        self._service = service
        self._enforcer = enforcer
        self._api = api
        self._actions = {route.action: route for route in routes if route.action}
        self._methods = {route.method: route for route in routes if not route.action}
        for method in {route.method for route in routes}:
            setattr(self, f"on_{method.lower()}", self._serve)

    def _serve(self, req: falcon.Request, resp: falcon.Response, **path: str) -> None:
        if any(unsafe(value) for value in path.values()):  # nothing has such a name, and it may be neither stored nor shown
            raise NotFound("The resource could not be found.")
        raw = _read(req)
        document = body.parse(raw) if raw else None
        route = self._action(document) if self._actions else self._methods[req.method]
        version: Version = req.context.version
        if version < route.since:
            raise PathNotFound("The resource could not be found.")
        self._enforcer.check(route.policy, req.context.user)
        schema = route.schema_at(version)
        if schema is not None:
            body.check(document, schema)
        endpoint = _endpoint(self._api, req)
        base, asked = f"{endpoint}{self._service.prefix}", f"{endpoint}{req.path}"
        user, additions = req.context.user, req.context.additions
        call = Call(user, version, path, _query(req), document, base, asked, self._api, additions)
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
    """Only a caller who may see hosts is told where they keep things."""
    withheld: Withheld | None = req.context.withheld
    return answer if withheld is None else withheld.document(answer, said)


def _explain(route: Route, call: Call) -> Any:
    """A request for the cost alone never carries out anything. Raises BadRequest where no cost can be told."""
    if route.explain is None:
        raise BadRequest(
            "this request has no cost to explain, because it copies no data of a volume. Nothing was done; leave out explain"
        )
    return route.explain(call)


def _query(req: falcon.Request) -> dict[str, str]:
    """Returns the query; if a parameter is given several times, its last value. Raises BadRequest for text that no resource may
    hold."""
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
    api: ApiContext,
    auth: Authenticator,
    enforcer: Enforcer,
    pages: dict[str, Callable[[falcon.Request, falcon.Response], None]],
) -> Callable[..., Any]:
    """Returns the WSGI application; ``pages`` are further open documents by path."""
    application = falcon.App(request_type=_Request, middleware=[_Shell(service, auth, api.withheld or Withheld(api.settings))])
    application.req_options.keep_blank_qs_values = True
    application.req_options.auto_parse_qs_csv = False
    application.add_error_handler(Exception, _unexpected)
    application.add_error_handler(falcon.HTTPError, _http_error)
    application.add_error_handler(StillframeError, _error)
    application.add_error_handler(AWAY, _database_away)
    by_path: dict[str, list[Route]] = defaultdict(list)
    for route in service.routes:
        by_path[route.path].append(route)
    for path, routes in by_path.items():
        application.add_route(service.prefix + path, _Resource(service, enforcer, api, routes))
    application.add_route("/", _Document(lambda req, resp: _root(service, _endpoint(api, req), resp)))
    application.add_route(service.prefix, _Document(lambda req, resp: _version(service, _endpoint(api, req), resp)))
    for path, page in pages.items():
        application.add_route(path, _Document(page))
    return application


def _endpoint(api: ApiContext, req: falcon.Request) -> str:
    return api.endpoint or str(req.prefix)


def _root(service: Service, endpoint: str, resp: falcon.Response) -> None:
    status, resp.media = service.root_document(endpoint)
    resp.status = falcon.code_to_http_status(status)


def _version(service: Service, endpoint: str, resp: falcon.Response) -> None:
    resp.media = service.version_document(endpoint)


def _error(req: falcon.Request, resp: falcon.Response, error: StillframeError, _params: object) -> None:
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
    unknown = isinstance(error, falcon.HTTPRouteNotFound)
    said = "The resource could not be found." if unknown else error.description or error.title or "error"
    resp.media = faults.of_status(status, said)
    for name, value in dict(error.headers or {}).items():
        resp.set_header(name, value)


def _database_away(req: falcon.Request, resp: falcon.Response, error: Exception, params: object) -> None:
    LOG.error("%s %s: the database does not answer", req.method, req.path[:LOGGED], exc_info=error)
    _error(req, resp, ServiceUnavailable("the service's database does not answer"), params)


def _unexpected(req: falcon.Request, resp: falcon.Response, error: Exception, _params: object) -> None:
    LOG.error("%s %s: unexpected error, a defect of Stillframe", req.method, req.path[:LOGGED], exc_info=error)
    resp.status = falcon.HTTP_500
    resp.media = faults.of_status(500, f"the service had an unexpected error; request {req.context.request_id}")

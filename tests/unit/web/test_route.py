"""The tables of both services: what every line of them must hold."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from stillframe.db.engine import Database
from stillframe.web.route import Route
from tests.unit import builders
from tests.unit.builders import context
from tests.unit.web.shell import SERVICES
from tests.unit.web.test_policy import ROUTES, line, named

HINTS = {"type": ["object", "null"]}  # scheduler hints: clients send them and nobody reads them
WRITES = [entry for entry in ROUTES if entry[1].method != "GET"]


def schemas(route: Route) -> list[Any]:
    """All schemas of a route, whatever the microversion."""
    return [schema for _, schema in route.schema] if isinstance(route.schema, tuple) else [route.schema]


def objects(schema: Any) -> list[dict[str, Any]]:
    """Every object schema inside, itself included."""
    if isinstance(schema, list):
        return [found for each in schema for found in objects(each)]
    if not isinstance(schema, dict):
        return []
    own = [schema] if schema.get("type") == "object" or schema.get("type") == ["object", "null"] else []
    return own + [found for each in schema.values() for found in objects(each)]


@pytest.mark.parametrize("service", SERVICES)
def test_no_line_stands_twice(service: str) -> None:
    lines = [line(route) for route in SERVICES[service].routes]
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize("service", SERVICES)
def test_a_path_takes_either_actions_or_bodies_on_one_method(service: str) -> None:
    actions = {route.path for route in SERVICES[service].routes if route.action}
    assert actions.isdisjoint({route.path for route in SERVICES[service].routes if not route.action})
    assert {route.method for route in SERVICES[service].routes if route.action} == {"POST"}


@pytest.mark.parametrize("entry", WRITES, ids=named)
def test_every_write_has_a_schema_or_takes_no_body(entry: tuple[str, Route]) -> None:
    route = entry[1]
    if route.schema is None:
        assert "body" not in route.handler.__code__.co_names
    else:
        for schema in schemas(route):
            Draft202012Validator.check_schema(json.loads(json.dumps(schema)))


@pytest.mark.parametrize("entry", [entry for entry in WRITES if entry[1].schema], ids=named)
def test_every_schema_says_of_each_object_what_else_it_may_hold(entry: tuple[str, Route]) -> None:
    for found in objects(schemas(entry[1])):
        assert found == HINTS or "additionalProperties" in found or "maxProperties" in found, found


@pytest.mark.parametrize("entry", [entry for entry in WRITES if entry[1].schema and entry[1].action], ids=named)
def test_the_schema_of_an_action_is_about_that_action(entry: tuple[str, Route]) -> None:
    for schema in schemas(entry[1]):
        assert list(schema["properties"]) == [entry[1].action]


@pytest.mark.parametrize("entry", ROUTES, ids=named)
def test_no_line_asks_for_a_version_its_service_does_not_have(entry: tuple[str, Route]) -> None:
    assert entry[1].since <= SERVICES[entry[0]].maximum


@pytest.mark.parametrize(
    ("roles", "query", "project"),
    [
        (("member",), {}, "demo"),
        (("member",), {"all_tenants": "1"}, "demo"),
        (("admin",), {}, "demo"),
        (("admin",), {"all_tenants": "1"}, None),
        (("admin",), {"all_tenants": "True"}, None),
        (("admin",), {"all_tenants": ""}, None),
        (("admin",), {"all_tenants": "0"}, "demo"),
        (("admin",), {"all_tenants": "false"}, "demo"),
        (("service",), {}, None),
    ],
)
def test_a_list_shows_all_projects_to_admins_that_ask_and_to_the_service(
    database: Database, tmp_path: Path, roles: tuple[str, ...], query: dict[str, str], project: str | None
) -> None:
    call = builders.call(builders.api(database, tmp_path), query=query, who=context(*roles))
    assert call.project == project


@pytest.mark.parametrize(("roles", "project"), [(("member", "reader"), "demo"), (("admin",), None), (("service",), None)])
def test_a_single_resource_is_any_projects_for_admins_and_the_service(
    database: Database, tmp_path: Path, roles: tuple[str, ...], project: str | None
) -> None:
    call = builders.call(builders.api(database, tmp_path), who=context(*roles))
    assert call.project_of_one == project


def test_every_first_segment_of_a_path_is_known_as_no_project() -> None:
    for service in SERVICES.values():
        assert service.collections == {route.path.split("/")[1] for route in service.routes}
        assert "" not in service.collections

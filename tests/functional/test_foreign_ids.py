"""Every verb of both services, asked by a member of another project: what is not theirs is as if it were not there."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import requests
import yaml

from stillframe.compute.api.routes import SERVICE as COMPUTE
from stillframe.errors import BadRequest
from stillframe.volumes.api.routes import SERVICE as VOLUMES
from stillframe.web import body
from stillframe.web.auth import write_users
from stillframe.web.route import Route
from tests.support.guest.domain import GuestOptions
from tests.support.lab import open_lab
from tests.support.operator import Operator
from tests.support.stack import Api, wait_for

MISSING = "11111111-2222-4333-8444-555555555555"
TEXTS = (MISSING, "a", "available", "2027-01-01T00:00:00", "0 3 * * *", "/dev/vdb", "raw", "local")
# Of which kind the thing is that a path names; what stands on no line is nobody's: types, flavors, quotas, keys of metadata.
KINDS = {
    "/volumes/{id}": "volume",
    "/snapshots/{id}": "snapshot",
    "/attachments/{id}": "attachment",
    "/backups/{id}": "backup",
    "/os-volume-transfer/{id}": "transfer",
    "/volume-transfers/{id}": "transfer",
    "/messages/{id}": "message",
    "/groups/{id}": "group",
    "/group_snapshots/{id}": "group snapshot",
    "/servers/{id}": "server",
    "/os-assisted-snapshots/{set_id}": "set",
    "/os-snapshot-policies/{policy_id}": "policy",
    "/os-volume_attachments/{volume_id}": "volume",
    "/os-assisted-volume-snapshots/{id}": "snapshot",
    "/os-assisted-volumes/{id}": "volume",
}
IN_BODIES: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("volume", "volume", "/snapshots", {"snapshot": {"volume_id": "ID"}}),
    ("volume", "volume", "/volumes", {"volume": {"source_volid": "ID", "size": 1}}),
    ("volume", "snapshot", "/volumes", {"volume": {"snapshot_id": "ID", "size": 1}}),
    ("volume", "backup", "/volumes", {"volume": {"backup_id": "ID", "size": 1}}),
    ("volume", "group", "/group_snapshots", {"group_snapshot": {"group_id": "ID"}}),
    ("volume", "group", "/groups/action", {"create-from-src": {"source_group_id": "ID"}}),
    ("volume", "group snapshot", "/groups/action", {"create-from-src": {"group_snapshot_id": "ID"}}),
    ("volume", "group", "/volumes", {"volume": {"group_id": "ID", "size": 1}}),
    ("volume", "volume", "/backups", {"backup": {"volume_id": "ID"}}),
    ("volume", "volume", "/attachments", {"attachment": {"volume_uuid": "ID", "instance_uuid": MISSING}}),
    ("volume", "backup", "/backups/ID/restore", {"restore": {}}),
    ("compute", "volume", "/servers/SERVER/os-volume_attachments", {"volumeAttachment": {"volumeId": "ID"}}),
    ("compute", "server", "/servers/ID/os-assisted-snapshots", {"assisted_snapshot": {"volumes": [MISSING]}}),
)


@dataclass(frozen=True)
class Site:
    operator: Operator
    stranger: Api
    things: Mapping[str, str]

    def answers(self, service: str, method: str, path: str, document: Any = None) -> list[requests.Response]:
        """What the stranger is told of a thing of the other project, then of one that is not there."""
        found = [self.stranger.send(service, method, path, document)]
        absent = re.sub("|".join(map(re.escape, self.things.values())), MISSING, path)
        if document is not None:
            document = yaml.safe_load(re.sub("|".join(map(re.escape, self.things.values())), MISSING, yaml.safe_dump(document)))
        return [*found, self.stranger.send(service, method, absent, document)]

    def alike(self, answers: list[requests.Response]) -> bool:
        texts = [answer.text for answer in answers]
        for each in (*self.things.values(), MISSING):
            texts = [text.replace(each, "ID") for text in texts]
        return texts[0] == texts[1] and answers[0].status_code == answers[1].status_code

    def everything(self) -> list[Any]:
        """All that the project's own member and an administrator see, and what lies on the share."""
        admin, api = self.operator.lab.stack.api("stillframe-admin"), self.operator.api
        paths = (
            ("volume", "/volumes/detail?all_tenants=1"),
            ("volume", "/snapshots/detail?all_tenants=1"),
            ("volume", "/backups/detail?all_tenants=1"),
            ("volume", "/attachments/detail?all_tenants=1"),
            ("volume", "/groups/detail?all_tenants=1"),
            ("volume", "/group_snapshots/detail?all_tenants=1"),
            ("compute", "/servers/detail?all_tenants=1"),
            ("compute", "/os-assisted-snapshots"),
            ("compute", "/os-snapshot-policies"),
        )
        share = self.operator.share
        files = [(path.name, path.read_bytes()) for path in sorted(share.glob("volume-*"))]
        return [files, *[(admin if "all" in path else api).ok(service, "GET", path) for service, path in paths]]


def offered(operator: Operator) -> str:
    """A volume that is offered to whoever has a key; returns the transfer's id."""
    body = {"transfer": {"volume_id": operator.volume("offered")}}
    return str(operator.api.ok("volume", "POST", "/volume-transfers", body)["transfer"]["id"])


def message_of(admin: Api, member: Api) -> str:
    """The message about a volume that no backend takes; returns its id."""
    kind = {"volume_type": {"name": "elsewhere", "extra_specs": {"vendor_name": "Another"}}}
    admin.ok("volume", "POST", "/types", kind)
    member.ok("volume", "POST", "/volumes", {"volume": {"size": 1, "volume_type": "elsewhere"}})
    return str(member.ok("volume", "GET", "/messages")["messages"][0]["id"])


def groups_of(operator: Operator) -> dict[str, str]:
    """A group with one volume, and a snapshot of it; returns the ids of both."""
    admin, member = operator.lab.stack.api("stillframe-admin"), operator.api
    kind = admin.ok("volume", "POST", "/group_types", {"group_type": {"name": "together"}})["group_type"]["id"]
    made = member.ok("volume", "POST", "/groups", {"group": {"group_type": kind, "volume_types": ["default"]}})["group"]["id"]
    held = operator.volume("in a group")
    member.ok("volume", "PUT", f"/groups/{made}", {"group": {"add_volumes": held}})
    operator.settle()
    taken = member.ok("volume", "POST", "/group_snapshots", {"group_snapshot": {"group_id": made}})["group_snapshot"]["id"]
    operator.settle()
    return {"group": made, "group snapshot": taken}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    lab = open_lab(tmp_path_factory.mktemp("foreign"))
    try:
        operator = Operator(lab)
        guest = lab.add_guest(1, GuestOptions(name="theirs"), boot=False)
        free = operator.volume("free")
        taken = lab.api.ok("compute", "POST", f"/servers/{guest.id}/os-assisted-snapshots", {"assisted_snapshot": {}})
        policy = {"snapshot_policy": {"name": "p", "schedule": "0 3 1 1 *", "keep_last": 1}}
        policy_id = lab.api.ok("compute", "POST", f"/servers/{guest.id}/os-snapshot-policies", policy)["snapshot_policy"]["id"]
        backup = lab.api.ok("volume", "POST", "/backups", {"backup": {"volume_id": free}})["backup"]["id"]
        set_id = taken["assisted_snapshot"]["id"]
        wait_for(lambda: lab.api.set(set_id)["status"] == "available", "the set")
        operator.settle()
        wait_for(lambda: lab.api.ok("volume", "GET", f"/backups/{backup}")["backup"]["status"] == "available", "the backup")
        found = lab.api.volume(lab.volumes[0])["attachments"][0]["attachment_id"]
        things = {"volume": lab.volumes[0], "snapshot": lab.api.set(set_id)["volumes"][0]["snapshot_id"], "backup": backup}
        things |= {"transfer": offered(operator), "message": message_of(lab.stack.api("stillframe-admin"), lab.api)}
        things |= groups_of(operator)
        things |= {"attachment": found, "server": guest.id, "set": set_id, "policy": policy_id}
        yield Site(operator, stranger(operator), things)
    finally:
        lab.clear()


def stranger(operator: Operator) -> Api:
    """A member of another project."""
    path, made = operator.state / "users.yaml", operator.lab.directory / "stranger.yaml"
    user = {"name": "stranger", "password": "pw", "user_id": "s", "project_id": "other", "roles": ["member", "reader"]}
    write_users(made, [user])
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) + yaml.safe_load(made.read_text())))
    cloud = yaml.safe_load((operator.state / "clouds.yaml").read_text())["clouds"]["stillframe"]
    return Api({**cloud, "auth": {"username": "stranger", "password": "pw"}})


def least(schema: Mapping[str, Any]) -> Any:
    """Returns a small document that fits a schema of ours."""
    if "enum" in schema:
        return next(each for each in schema["enum"] if each is not None)
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return least(schema[several][0])
    kinds = schema.get("type", "object")
    kind = kinds if isinstance(kinds, str) else next(each for each in kinds if each != "null")
    if kind == "object":
        return _least_object(schema)
    if kind == "array":
        return [least(schema["items"])] * schema.get("minItems", 0)
    if kind == "string":
        fits = [
            text for text in TEXTS if re.search(schema.get("pattern", ""), text) and len(text) >= schema.get("minLength", 0)
        ]
        return next(text for text in fits if len(text) <= schema.get("maxLength", 99))
    return {"integer": max(1, schema.get("minimum", 1)), "number": 1, "boolean": True, "null": None}[kind]


def _least_object(schema: Mapping[str, Any]) -> dict[str, Any]:
    known = schema.get("properties", {})
    wanted = [*schema.get("required", ())] or [*known][: schema.get("minProperties", 0)]
    found = {name: least(known[name]) for name in wanted}
    return found if len(found) >= schema.get("minProperties", 0) else {**found, "a": "a"}


def kind_of(path: str) -> list[str]:
    return [kind for begin, kind in KINDS.items() if begin in path]


def cases() -> list[tuple[str, Route]]:
    return [(service.name, route) for service in (VOLUMES, COMPUTE) for route in service.routes if kind_of(route.path)]


def test_every_resource_in_a_path_is_tried() -> None:
    """A new kind of thing needs its line above."""
    theirs = {"/types", "/flavors", "/os-quota-sets", "/os-quota-class-sets", "/qos-specs", "/os-hosts", "/capabilities"}
    theirs |= {"/group_types"}
    left = [route.path for service in (VOLUMES, COMPUTE) for route in service.routes if "{" in route.path]
    assert {path for path in left if not kind_of(path) and not any(path.startswith(each) for each in theirs)} == set()
    assert len(cases()) > 60


def test_every_body_is_accepted_for_an_own_resource() -> None:
    """Else a refusal would be of the body, and say nothing about the thing."""
    refused = []
    for service, route in cases():
        schema = route.newest_schema
        if schema is not None:
            try:
                body.check(least(schema), schema)
            except BadRequest as error:
                refused.append((service, route.path, route.action, error.message))
    assert refused == []


@pytest.mark.parametrize("query", ["", "?explain=1"])
def test_another_projects_resource_is_answered_like_a_missing_one(site: Site, query: str) -> None:
    before = site.everything()
    apart = []
    for service, route in cases():
        path = route.path
        for begin, kind in KINDS.items():
            whole, name = begin.rsplit("{", 1)
            path = path.replace(begin, f"{whole}{site.things[kind]}") if "{" + name in path else path
        schema = route.newest_schema
        document = least(schema) if schema is not None else None
        if route.action is not None and document is None:
            document = {route.action: None}
        answers = site.answers(service, route.method, path.replace("{key}", "a") + query, document)
        if not site.alike(answers) or answers[0].status_code < 400 or answers[0].status_code >= 500:
            told = [(answer.status_code, answer.text[:200]) for answer in answers]
            if route.method != "GET" or told[0] != told[1]:  # a list below a thing that is not there may be empty
                apart.append((route.method, route.path, route.action, told))
    assert apart == []
    assert site.everything() == before


def test_another_projects_resource_in_a_body_is_answered_like_a_missing_one(site: Site) -> None:
    before = site.everything()
    apart = []
    for service, kind, path, document in IN_BODIES:
        text = yaml.safe_dump(document).replace("ID", site.things[kind])
        where = path.replace("ID", site.things[kind]).replace("SERVER", site.things["server"])
        answers = site.answers(service, "POST", where, yaml.safe_load(text))
        if not site.alike(answers) or not 400 <= answers[0].status_code < 500:
            apart.append((where, [(answer.status_code, answer.text[:200]) for answer in answers]))
    assert apart == []
    assert site.everything() == before

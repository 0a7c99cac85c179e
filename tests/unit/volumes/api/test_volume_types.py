"""Who may use a volume type, what it asks for, and the qos-specs it may have."""

from typing import Any

from tests.unit.builders import SET
from tests.unit.volumes.rest import ADMIN, OTHER, Rest


def make(rest: Rest, name: str, **more: Any) -> str:
    return str(rest.ok("POST", "/types", {"volume_type": {"name": name, **more}}, who=ADMIN)["volume_type"]["id"])


def change_access(rest: Rest, type_id: str, action: str, project: str = "demo") -> int:
    body = {action: {"project": project}}
    return rest.ask("POST", f"/types/{type_id}/action", body, who=ADMIN).status_code


def test_a_private_type_is_for_the_projects_let_in(rest: Rest) -> None:
    made = make(rest, "gold", **{"os-volume-type-access:is_public": False})
    body = {"volume": {"size": 1, "volume_type": made}}
    rest.refused(404, "POST", "/volumes", body)
    assert change_access(rest, made, "addProjectAccess") == 202
    assert change_access(rest, made, "addProjectAccess") == 409
    assert rest.volume(volume_type=made)
    assert "gold" in [each["name"] for each in rest.ok("GET", "/types")["volume_types"]]
    assert rest.ok("GET", f"/types/{made}")["volume_type"]["name"] == "gold"
    rest.refused(404, "POST", "/volumes", body, who=OTHER)
    rest.refused(404, "GET", f"/types/{made}", who=OTHER)
    listed = rest.ok("GET", f"/types/{made}/os-volume-type-access", who=ADMIN)["volume_type_access"]
    assert listed == [{"volume_type_id": made, "project_id": "demo"}]
    assert change_access(rest, made, "removeProjectAccess") == 202
    assert change_access(rest, made, "removeProjectAccess") == 404
    rest.refused(404, "POST", "/volumes", body)


def test_a_public_type_has_no_list_of_projects(rest: Rest) -> None:
    made = make(rest, "plain")
    assert change_access(rest, made, "addProjectAccess") == 400
    rest.refused(404, "GET", f"/types/{made}/os-volume-type-access", who=ADMIN)


def test_encryption_is_refused_in_words(rest: Rest) -> None:
    made = make(rest, "plain")
    assert rest.ok("GET", f"/types/{made}/encryption") == {}
    body = {"encryption": {"provider": "luks", "control_location": "front-end"}}
    assert "does not encrypt" in rest.refused(400, "POST", f"/types/{made}/encryption", body, who=ADMIN)


def test_a_type_that_no_backend_fits_makes_a_volume_in_error_and_a_message(rest: Rest) -> None:
    make(rest, "elsewhere", extra_specs={"vendor_name": "Another"})
    made = rest.volume(volume_type="elsewhere")
    assert rest.status(made) == "error"
    (message,) = rest.ok("GET", "/messages")["messages"]
    assert (message["resource_uuid"], message["message_level"]) == (made, "ERROR")
    assert "elsewhere" in message["user_message"]
    assert rest.ok("GET", f"/messages/{message['id']}")["message"] == message
    for method in ("GET", "DELETE"):
        rest.refused(404, method, f"/messages/{message['id']}", who=OTHER)
    rest.ok("DELETE", f"/messages/{message['id']}")
    rest.refused(404, "GET", f"/messages/{message['id']}")
    rest.ok("DELETE", f"/volumes/{made}")
    rest.refused(404, "GET", f"/volumes/{made}")


def test_a_type_may_name_this_backend_by_protocol_and_vendor(rest: Rest) -> None:
    make(rest, "here", extra_specs={"vendor_name": "Stillframe", "storage_protocol": "local"})
    assert rest.status(rest.volume(volume_type="here")) == "available"


def test_a_volume_gets_another_type_where_it_is(rest: Rest) -> None:
    other, away = make(rest, "other"), make(rest, "away", extra_specs={"volume_backend_name": "away"})
    raw, mine = make(rest, "raw", extra_specs={"stillframe:volume_format": "raw"}), rest.volume()
    rest.act(mine, "os-retype", {"new_type": other, "migration_policy": "never"})
    assert rest.ok("GET", f"/volumes/{mine}")["volume"]["volume_type"] == "other"
    action = f"/volumes/{mine}/action"
    for name, status in ((other, 400), (away, 400), (raw, 400), ("nonesuch", 404), (SET, 404)):
        rest.refused(status, "POST", action, {"os-retype": {"new_type": name}})
    private = make(rest, "private", **{"os-volume-type-access:is_public": False})
    rest.refused(404, "POST", action, {"os-retype": {"new_type": private}})


def qos(rest: Rest, name: str = "fast", **specs: Any) -> str:
    return str(rest.ok("POST", "/qos-specs", {"qos_specs": {"name": name, **specs}}, who=ADMIN)["qos_specs"]["id"])


def test_qos_specs_are_kept_changed_and_deleted(rest: Rest) -> None:
    made = qos(rest, consumer="front-end", read_iops_sec="2000")
    shown = rest.ok("GET", f"/qos-specs/{made}", who=ADMIN)["qos_specs"]
    assert shown == {"id": made, "name": "fast", "consumer": "front-end", "specs": {"read_iops_sec": "2000"}}
    assert rest.ask("POST", "/qos-specs", {"qos_specs": {"name": "fast"}}, who=ADMIN).status_code == 409
    body = {"qos_specs": {"write_iops_sec": "5"}}
    assert rest.ok("PUT", f"/qos-specs/{made}", body, who=ADMIN) == body
    rest.refused(404, "PUT", f"/qos-specs/{made}/delete_keys", {"keys": ["read_iops_sec", "no"]}, who=ADMIN)
    rest.ok("PUT", f"/qos-specs/{made}/delete_keys", {"keys": ["read_iops_sec"]}, who=ADMIN)
    (listed,) = rest.ok("GET", "/qos-specs", who=ADMIN)["qos_specs"]
    assert listed["specs"] == {"write_iops_sec": "5"}
    rest.ok("DELETE", f"/qos-specs/{made}", who=ADMIN)
    rest.refused(404, "GET", f"/qos-specs/{made}", who=ADMIN)
    rest.refused(403, "GET", "/qos-specs")


def test_qos_specs_are_given_to_types_and_taken_from_them(rest: Rest) -> None:
    made, second = qos(rest), qos(rest, "slow")
    types = [make(rest, name) for name in ("a", "b")]
    for each in (*types, types[0]):
        rest.ok("GET", f"/qos-specs/{made}/associate?vol_type_id={each}", who=ADMIN)
    rest.refused(400, "GET", f"/qos-specs/{second}/associate?vol_type_id={types[0]}", who=ADMIN)
    rest.refused(400, "GET", f"/qos-specs/{made}/associate", who=ADMIN)
    rest.refused(400, "GET", f"/qos-specs/{made}/disassociate_all?explain=1", who=ADMIN)
    found = rest.ok("GET", f"/qos-specs/{made}/associations", who=ADMIN)["qos_associations"]
    assert [each["id"] for each in found] == types
    assert rest.ok("GET", f"/types/{types[0]}", who=ADMIN)["volume_type"]["qos_specs_id"] == made
    rest.refused(400, "DELETE", f"/qos-specs/{made}", who=ADMIN)
    rest.ok("GET", f"/qos-specs/{made}/disassociate?vol_type_id={types[0]}", who=ADMIN)
    found = rest.ok("GET", f"/qos-specs/{made}/associations", who=ADMIN)["qos_associations"]
    assert [each["id"] for each in found] == types[1:]
    rest.ok("DELETE", f"/qos-specs/{made}?force=true", who=ADMIN)
    assert rest.ok("GET", f"/types/{types[1]}", who=ADMIN)["volume_type"]["qos_specs_id"] is None

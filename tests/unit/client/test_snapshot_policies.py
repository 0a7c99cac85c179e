"""The client library's snapshot policies."""

from typing import Any

import pytest

from stillframe.client.assisted_snapshots import AssistedSnapshots
from stillframe.client.snapshot_policies import SnapshotPolicies
from stillframe.errors import BadRequest, NotFound
from tests.unit.builders import SERVER, VOLUME
from tests.unit.client.fakes import Adapter, Answer, fault

POLICY = "8b8b8b8b-8888-4888-8888-888888888888"
ALL, ONE = "/os-snapshot-policies", f"/os-snapshot-policies/{POLICY}"
OF_SERVER = f"/servers/{SERVER}/os-snapshot-policies"


def client(**answers: Any) -> tuple[SnapshotPolicies, Adapter]:
    compute = Adapter({name.replace("_", " ", 1): answer for name, answer in answers.items()})
    return SnapshotPolicies(AssistedSnapshots(compute, Adapter())), compute


def policy(name: str = "hourly", identifier: str = POLICY) -> dict[str, Any]:
    return {"id": identifier, "name": name}


def several(*found: dict[str, Any]) -> Answer:
    return Answer(200, {"snapshot_policies": list(found)})


def test_a_policy_is_made_listed_and_changed() -> None:
    one = Answer(200, {"snapshot_policy": policy()})
    many = several(policy())
    made, compute = client(**{f"POST_{OF_SERVER}": one, f"GET_{ALL}": many, f"GET_{OF_SERVER}": many, f"PUT_{ONE}": one})
    assert made.create(SERVER, {"keep_last": 3}) == made.change(POLICY, {"enabled": False}) == policy()
    assert made.list() == made.list(SERVER) == [policy()]
    assert compute.sent == [
        ("POST", OF_SERVER, {"snapshot_policy": {"keep_last": 3}}),
        ("PUT", ONE, {"snapshot_policy": {"enabled": False}}),
        ("GET", ALL, None),
        ("GET", OF_SERVER, None),
    ]


def test_a_policy_is_shown_by_its_id_and_else_by_its_name() -> None:
    made, _ = client(
        **{f"GET_{ONE}": Answer(200, {"snapshot_policy": policy()}), f"GET_{ALL}?name=a%20b": several(policy("a b"))}
    )
    assert made.show(POLICY) == policy()
    assert made.show("a b") == policy("a b")


def test_a_name_that_fits_none_or_several_is_an_error() -> None:
    two = several(policy(), policy("hourly", VOLUME))
    made, _ = client(**{f"GET_{ALL}?name=hourly": two, f"GET_{ALL}?name=daily": several()})
    with pytest.raises(NotFound, match="no snapshot policy has the name or id 'daily'"):
        made.show("daily")
    with pytest.raises(BadRequest, match=f"{POLICY}, {VOLUME}"):
        made.show("hourly")


def test_a_policy_is_deleted_by_its_name() -> None:
    made, compute = client(**{f"GET_{ALL}?name=hourly": several(policy()), f"DELETE_{ONE}": Answer(204)})
    made.delete("hourly")
    assert compute.sent[-1] == ("DELETE", ONE, None)


def test_an_error_of_the_service_is_ours() -> None:
    made, _ = client(**{f"POST_{OF_SERVER}": fault(400, "no cron expression")})
    with pytest.raises(BadRequest, match="no cron expression"):
        made.create(SERVER, {})

"""Schedules and retention on a real guest: sets come by themselves, the right ones go while the guest runs, no byte changes."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from stillframe.db import assisted_snapshots, snapshot_policies
from stillframe.db.engine import Database
from stillframe.db.tables import now
from tests.functional.test_cli import OPENSTACK, document, run
from tests.support.content import DiskContent
from tests.support.guest.domain import GuestOptions
from tests.support.lab import Lab, open_lab
from tests.support.service import PROGRAM
from tests.support.stack import wait_for

NEVER_SOON = "0 0 29 2 *"  # the tests say when it is due
TURN = 60.0  # the worker looks every ten seconds


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = open_lab(tmp_path_factory.mktemp("policies"))
    try:
        made.add_guest(2, GuestOptions(name="web"))
        yield made
    finally:
        made.clear()


@contextmanager
def writing(lab: Lab) -> Iterator[Connection]:
    database = Database(f"sqlite:///{lab.stack.state_dir}/stillframe.sqlite")
    with database.write() as connection:
        yield connection
    database.close()


def make_due(lab: Lab, policy_id: str, ago: timedelta = timedelta(0)) -> None:
    """As if the schedule had named that time."""
    with writing(lab) as connection:
        snapshot_policies.note(connection, policy_id, next_run=now().replace(microsecond=0) - ago)


def policy(lab: Lab, policy_id: str) -> dict[str, Any]:
    found: dict[str, Any] = lab.api.ok("compute", "GET", f"/os-snapshot-policies/{policy_id}")["snapshot_policy"]
    return found


def the_policy(lab: Lab) -> str:
    """The id of the only policy there is."""
    (found,) = lab.api.ok("compute", "GET", "/os-snapshot-policies")["snapshot_policies"]
    return str(found["id"])


def change(lab: Lab, policy_id: str, **changes: Any) -> None:
    lab.api.ok("compute", "PUT", f"/os-snapshot-policies/{policy_id}", {"snapshot_policy": changes})


def add_policy(lab: Lab, **wanted: Any) -> str:
    body = {"snapshot_policy": {"schedule": NEVER_SOON, **wanted}}
    made = lab.api.ok("compute", "POST", f"/servers/{lab.guest.id}/os-snapshot-policies", body)
    return str(made["snapshot_policy"]["id"])


def sets(lab: Lab, **filters: str) -> list[dict[str, Any]]:
    """Oldest first."""
    query = "&".join(f"{name}={value}" for name, value in filters.items())
    found: list[dict[str, Any]] = lab.api.ok("compute", "GET", f"/os-assisted-snapshots?{query}")["assisted_snapshots"]
    return found[::-1]


def take_by(lab: Lab, policy_id: str) -> dict[str, Any]:
    """Waits until the policy has taken another set."""
    before = policy(lab, policy_id)["last_set_id"]
    make_due(lab, policy_id)
    wait_for(lambda: policy(lab, policy_id)["last_set_id"] != before, "the run of the policy", TURN)
    return lab.api.wait_set(policy(lab, policy_id)["last_set_id"])


def take_as(lab: Lab, policy_id: str) -> dict[str, Any]:
    """Takes a set and records the policy as its maker, without waiting for the worker's next look."""
    found = lab.api.take(lab.guest.id, quiesce="preferred")
    with writing(lab) as connection:
        assisted_snapshots.change(connection, found["id"], policy_id=policy_id)
    return lab.api.set(found["id"])


def gone(lab: Lab, set_id: str) -> bool:
    return lab.api.send("compute", "GET", f"/os-assisted-snapshots/{set_id}").status_code == 404


def test_sets_come_and_go_by_themselves_under_a_running_guest(operator: Lab) -> None:
    options = ["--name", "nightly", "--schedule", NEVER_SOON, "--keep-last", "2", "--quiesce", "required"]
    made = document(operator, OPENSTACK, "snapshot", "policy", "create", *options, "web")
    assert (made["enabled"], made["schedule"], made["keep_last"], made["volumes"]) == (True, NEVER_SOON, 2, "all")
    assert made["next_run"].endswith("-02-29T00:00:00.000000")
    first = take_by(operator, made["id"])
    assert first["name"].startswith("nightly-")
    assert (first["policy_id"], first["consistency"]["level"], len(first["volumes"])) == (made["id"], "filesystem", 2)
    mine = operator.api.take(operator.guest.id, name="by hand")
    labelled = document(operator, OPENSTACK, "assisted", "snapshot", "set", "--keep", first["id"])
    assert labelled["properties"] == {"keep": "true"}
    second = take_as(operator, made["id"])
    operator.guest.still_writes()
    third = take_as(operator, made["id"])
    contents = {each["id"]: operator.frozen_data(each) for each in (first, mine, second, third)}
    fourth = take_by(operator, made["id"])
    wait_for(lambda: gone(operator, second["id"]), "the deletion of the oldest set that no rule keeps", TURN)
    assert [each["id"] for each in sets(operator)] == [first["id"], mine["id"], third["id"], fourth["id"]]
    for each in (first, mine, third):
        assert operator.frozen_data(each) == contents[each["id"]]
    assert len({content.counter for each in contents.values() for content in each}) > 2  # the guest wrote in between
    newest = operator.check_one_instant(fourth)
    assert newest[0].counter > _counter(contents[third["id"]])
    operator.guest.still_writes()
    operator.check_sound()
    shown = document(operator, PROGRAM, "snapshot-policy", "show", "nightly")
    assert (shown["last_set_id"], shown["last_error"], shown["retention_error"]) == (fourth["id"], None, None)
    listed = document(operator, PROGRAM, "assisted-snapshot", "list", "--policy", "nightly")
    assert {row["ID"] for row in listed} == {first["id"], third["id"], fourth["id"]}


def _counter(contents: list[DiskContent]) -> int:
    return contents[0].counter


def test_a_set_without_its_label_is_deleted(operator: Lab) -> None:
    (policy_id,) = [row["ID"] for row in document(operator, PROGRAM, "snapshot-policy", "list", "--server", "web")]
    first = sets(operator, policy_id=policy_id)[0]
    run(operator, PROGRAM, "assisted-snapshot", "set", "--no-keep", first["id"])
    document(operator, OPENSTACK, "snapshot", "policy", "set", "--description", "the last two", "nightly")
    assert policy(operator, policy_id)["description"] == "the last two"
    wait_for(lambda: gone(operator, first["id"]), "the deletion of the set", TURN)
    assert len(sets(operator, policy_id=policy_id)) == 2
    operator.check_sound()


def test_runs_missed_while_nothing_ran_are_taken_once(operator: Lab) -> None:
    policy_id = the_policy(operator)
    change(operator, policy_id, keep_last=9, schedule="0 * * * *")
    before = [each["id"] for each in sets(operator)]
    operator.stack.stop()
    make_due(operator, policy_id, timedelta(days=3))
    operator.stack.start()
    wait_for(lambda: len(sets(operator)) > len(before), "the missed run", TURN)
    wait_for(lambda: policy(operator, policy_id)["last_set_id"] not in before, "the record of the run", TURN)
    found = policy(operator, policy_id)
    made = operator.api.wait_set(found["last_set_id"])
    assert (made["status"], made["id"] in before) == ("available", False)
    assert found["next_run"] > found["last_run"]
    change(operator, policy_id, schedule=NEVER_SOON)
    assert len(sets(operator)) == len(before) + 1


def test_a_service_killed_in_a_run_takes_the_set_once(operator: Lab) -> None:
    policy_id = the_policy(operator)
    before = [each["id"] for each in sets(operator)]
    last = policy(operator, policy_id)["last_set_id"]
    operator.stack.stop()
    make_due(operator, policy_id)
    operator.stack.start("assisted_snapshot/record/before")
    operator.stack.wait_killed(TURN)
    operator.stack.start()
    wait_for(lambda: policy(operator, policy_id)["last_set_id"] != last, "the record of the run", 2 * TURN)
    assert operator.api.wait_set(policy(operator, policy_id)["last_set_id"])["status"] == "available"
    assert [each["id"] for each in sets(operator)] == [*before, policy(operator, policy_id)["last_set_id"]]
    operator.check_sound()


def test_a_server_that_cannot_be_snapshotted_now_is_waited_for(operator: Lab) -> None:
    policy_id = the_policy(operator)
    before = policy(operator, policy_id)["last_set_id"]
    operator.guest.domain.suspend()
    make_due(operator, policy_id)
    wait_for(lambda: "waits" in (policy(operator, policy_id)["last_error"] or ""), "the refusal", TURN)
    assert policy(operator, policy_id)["last_set_id"] == before
    operator.guest.domain.resume()
    wait_for(lambda: policy(operator, policy_id)["last_error"] is None, "the run after all", TURN)
    assert operator.api.wait_set(policy(operator, policy_id)["last_set_id"])["status"] == "available"


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"schedule": "now and then"}, "five fields"),
        ({"schedule": "99 * * * *"}, "bad minute"),
        ({"schedule": None}, "neither takes nor deletes"),
        ({"timezone": "Mars/Olympus"}, "Mars/Olympus"),
        ({"volumes": ["11111111-2222-4333-8444-555555555555"]}, "not attached"),
        ({"keep_last": -1}, "keep_last"),
        ({"keep_last": 500}, "at most 63"),
        ({"keep_yearly": 1}, "keep_yearly"),
        ({"server_id": "11111111-2222-4333-8444-555555555555"}, "server_id"),
    ],
    ids=str,
)
def test_a_policy_with_nonsense_is_refused_and_nothing_changes(operator: Lab, wanted: dict[str, Any], told: str) -> None:
    before = operator.api.ok("compute", "GET", "/os-snapshot-policies")
    body = {"snapshot_policy": {"schedule": NEVER_SOON, **wanted}}
    answer = operator.api.send("compute", "POST", f"/servers/{operator.guest.id}/os-snapshot-policies", body)
    assert answer.status_code == 400 and told in answer.text, answer.text
    nightly = before["snapshot_policies"][0]["id"]
    changed = {"schedule": None, "keep_last": 0} if wanted == {"schedule": None} else wanted
    answer = operator.api.send("compute", "PUT", f"/os-snapshot-policies/{nightly}", {"snapshot_policy": changed})
    assert answer.status_code == 400 and told in answer.text, answer.text
    assert operator.api.ok("compute", "GET", "/os-snapshot-policies") == before


def test_no_request_can_assign_a_set_to_a_policy(operator: Lab) -> None:
    path, before = f"/servers/{operator.guest.id}/os-assisted-snapshots", sets(operator)
    forged = "11111111-2222-4333-8444-555555555555"
    for given in ({"policy_id": forged}, {"metadata": {"stillframe:policy": forged}}):
        assert operator.api.send("compute", "POST", path, {"assisted_snapshot": given}).status_code == 400
        one = f"/os-assisted-snapshots/{before[0]['id']}"
        assert operator.api.send("compute", "PUT", one, {"assisted_snapshot": given}).status_code == 400
    assert sets(operator) == before


def test_a_policy_that_is_gone_deletes_nothing_any_more(operator: Lab) -> None:
    before = [each["id"] for each in sets(operator)]
    run(operator, OPENSTACK, "snapshot", "policy", "delete", "nightly")
    assert operator.api.ok("compute", "GET", "/os-snapshot-policies") == {"snapshot_policies": []}
    assert [each["id"] for each in sets(operator)] == before
    assert "no snapshot policy" in run(operator, PROGRAM, "snapshot-policy", "show", "nightly", code=1)


DEEP = "[volumes]\nchain_depth_warning = 3\nmax_chain_depth = 5\n[compute]\nmerge_oldest_at_soft_limit = true\n"


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Lab]:
    """A stopped server; chains are deep early."""
    made = open_lab(tmp_path, DEEP)
    try:
        made.add_guest(1, GuestOptions(name="web"), boot=False)
        yield made
    finally:
        made.clear()


def test_chains_stay_at_the_soft_limit_and_labels_win_over_it(deep: Lab) -> None:
    policy_id = add_policy(deep, keep_last=4, name="deep")
    first, second = take_as(deep, policy_id), take_as(deep, policy_id)
    assert (first["warnings"], second["warnings"]) == ([], [])
    third = take_by(deep, policy_id)
    assert "has 3 files in its chain" in third["warnings"][0]
    wait_for(lambda: gone(deep, first["id"]), "the deletion at the soft limit", TURN)
    assert f"set {first['id']} was deleted although a rule keeps it" in policy(deep, policy_id)["retention_note"]
    for each in (second, third):
        labels = {"assisted_snapshot": {"metadata": {"keep": "true"}}}
        deep.api.ok("compute", "PUT", f"/os-assisted-snapshots/{each['id']}", labels)
    fourth, fifth = (deep.api.take(deep.guest.id, name=name) for name in ("fourth", "fifth"))
    assert [len(each["warnings"]) for each in (fourth, fifth)] == [1, 1]
    make_due(deep, policy_id)
    wait_for(lambda: policy(deep, policy_id)["last_error"] is not None, "the refusal at the hard limit", TURN)
    assert "the most allowed is 5; delete a snapshot" in policy(deep, policy_id)["last_error"]
    assert [each["id"] for each in sets(deep)] == [each["id"] for each in (second, third, fourth, fifth)]
    deep.check_sound()

"""The commands about snapshot policies: what they ask for and the columns they show."""

import argparse
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.client.osc import snapshot_policy as osc
from stillframe.errors import BadRequest
from tests.unit.builders import SERVER, SET, VOLUME

POLICY = "8b8b8b8b-8888-4888-8888-888888888888"
FOUND: dict[str, Any] = {
    "id": POLICY,
    "server_id": SERVER,
    "name": "hourly",
    "description": None,
    "enabled": True,
    "schedule": "0 * * * *",
    "timezone": "Europe/Berlin",
    "quiesce": "required",
    "volumes": [VOLUME, SERVER],
    "keep_last": 3,
    "keep_hourly": 0,
    "keep_daily": 7,
    "keep_weekly": 0,
    "next_run": "2026-11-24T13:00:00.000000",
    "last_run": "2026-11-24T12:00:01.000000",
    "last_set_id": SET,
    "last_error": None,
    "retention_error": "in the way",
    "retention_note": None,
    "failed_sets": [{"id": SET, "fault": "the share is full"}],
    "created_at": "2026-11-24T11:00:00.000000",
    "updated_at": None,
}


class ApiContext:
    """Finds everything under ``id of NAME``, answers every request with the policy and remembers it."""

    def __init__(self, **changes: Any) -> None:
        self.found = {**FOUND, **changes}
        self.asked: list[Any] = []

    def find_server(self, name: str) -> str:
        return f"id of {name}"

    find_volume = find_server

    def compute(self, method: str, path: str, body: Any = None) -> Any:
        self.asked.append((method, path, body))
        return {"snapshot_policy": self.found, "snapshot_policies": [self.found]}


def run(command: Any, client: ApiContext, *arguments: str) -> Any:
    app = SimpleNamespace(client_manager=SimpleNamespace(assisted_snapshot=client))
    made = command(app, argparse.Namespace())
    return made.take_action(made.get_parser("test").parse_args(list(arguments)))


def sent(command: Any, *arguments: str) -> Any:
    """What the command's last request asks for."""
    client = ApiContext()
    run(command, client, *arguments)
    return client.asked[-1][2]["snapshot_policy"]


def shown(answer: Any) -> dict[str, Any]:
    names, values = answer
    return dict(zip(names, values, strict=True))


def test_only_what_is_named_is_asked_for() -> None:
    client = ApiContext()
    run(osc.Create, client, "--schedule", "0 * * * *", "web")
    path = "/servers/id of web/os-snapshot-policies"
    assert client.asked == [("POST", path, {"snapshot_policy": {"schedule": "0 * * * *"}})]


def test_a_policy_is_asked_for_with_everything() -> None:
    options = ["--name", "n", "--description", "d", "--schedule", "0 3 * * *", "--timezone", "Europe/Berlin"]
    options += ["--quiesce", "required", "--volume", "a", "--volume", "b", "--disable"]
    options += ["--keep-last", "1", "--keep-hourly", "2", "--keep-daily", "3", "--keep-weekly", "0"]
    assert sent(osc.Create, *options, "web") == {
        "name": "n",
        "description": "d",
        "schedule": "0 3 * * *",
        "timezone": "Europe/Berlin",
        "quiesce": "required",
        "volumes": ["id of a", "id of b"],
        "enabled": False,
        "keep_last": 1,
        "keep_hourly": 2,
        "keep_daily": 3,
        "keep_weekly": 0,
    }


def test_a_policy_is_changed_under_its_id_by_what_is_named() -> None:
    client = ApiContext()
    run(osc.Set, client, "--no-schedule", "--all-volumes", "--enable", "hourly")
    wanted = {"snapshot_policy": {"schedule": None, "volumes": "all", "enabled": True}}
    assert client.asked == [
        ("GET", "/os-snapshot-policies?name=hourly", None),
        ("PUT", f"/os-snapshot-policies/{POLICY}", wanted),
    ]
    assert sent(osc.Set, "--keep-last", "0", "hourly") == {"keep_last": 0}


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--keep-last", "-1", "x"],
        ["--keep-last", "1.5", "x"],
        ["--keep-last", "\u0663", "x"],
        ["--quiesce", "maybe", "x"],
        ["--enable", "--disable", "x"],
        ["--schedule", "* * * * *", "--no-schedule", "x"],
        ["--volume", "a", "--all-volumes", "x"],
        ["x", "y"],
    ],
)
def test_a_command_that_makes_no_sense_is_refused(options: list[str]) -> None:
    for command in (osc.Create, osc.Set):
        client = ApiContext()
        with pytest.raises(SystemExit):
            run(command, client, *options)
        assert client.asked == []


def test_a_change_of_nothing_is_refused() -> None:
    client = ApiContext()
    with pytest.raises(BadRequest, match="nothing to change"):
        run(osc.Set, client, "hourly")
    assert client.asked == []


def test_a_policy_is_shown_whole() -> None:
    found = shown(run(osc.Show, ApiContext(), "hourly"))
    lists = {"volumes", "failed_sets"}
    assert set(found) == set(FOUND)
    assert {key: value for key, value in found.items() if key not in lists} == {
        key: value for key, value in FOUND.items() if key not in lists
    }
    assert found["volumes"].human_readable() == f"{VOLUME}\n{SERVER}"
    assert found["volumes"].machine_readable() == [VOLUME, SERVER]
    assert found["failed_sets"].human_readable() == f"id={SET}, fault=the share is full"
    assert found["failed_sets"].machine_readable() == FOUND["failed_sets"]
    assert shown(run(osc.Show, ApiContext(volumes="all"), "hourly"))["volumes"] == "all"


def test_a_list_has_the_columns_written_here() -> None:
    client = ApiContext()
    names, rows = run(osc.List, client)
    assert names == ("ID", "Name", "Server ID", "Enabled", "Schedule", "Keeps", "Next Run", "Last Run", "Error")
    kept = "last 3, daily 7"
    assert rows == [(POLICY, "hourly", SERVER, True, "0 * * * *", kept, FOUND["next_run"], FOUND["last_run"], "in the way")]
    run(osc.List, client, "--server", "web")
    assert [path for _, path, _ in client.asked] == ["/os-snapshot-policies", "/servers/id of web/os-snapshot-policies"]


def test_a_policy_without_rules_keeps_all_and_its_last_error_comes_first() -> None:
    _, rows = run(osc.List, ApiContext(keep_last=0, keep_daily=0, last_error="busy"))
    assert (rows[0][5], rows[0][8]) == ("all", "busy")


def test_several_policies_are_deleted() -> None:
    client = ApiContext()
    run(osc.Delete, client, "hourly", POLICY)
    assert [path for method, path, _ in client.asked if method == "DELETE"] == [f"/os-snapshot-policies/{POLICY}"] * 2

"""The command line's nouns: what they ask for and the columns they show."""

import argparse
import io
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.client.osc import assisted_snapshot as osc
from stillframe.client.osc import waits
from stillframe.errors import BadRequest, StepFailed, StillRunning
from tests.unit.builders import SERVER, SET, VOLUME

OUTCOME = {"level": "filesystem", "frozen_ms": 123.4, "filesystems": 2, "flushed": True, "degraded_reason": None}
FOUND: dict[str, Any] = {
    "id": SET,
    "server_id": SERVER,
    "name": "nightly",
    "description": None,
    "status": "available",
    "progress": 100,
    "created_at": "2024-01-02T03:04:05.000000",
    "switched_at": "2024-01-02T03:04:06.500000",
    "switched_at_uncertainty_ms": 95.5,
    "switched_at_note": None,
    "quiesce": "preferred",
    "consistency": OUTCOME,
    "volumes": [{"volume_id": VOLUME, "name": "data", "device": "/dev/vdb", "status": "available", "error": None}],
    "excluded_disks": [{"device": "/dev/vdz", "reason": "no volume"}],
    "fault": None,
    "metadata": {"a": "b", "keep": "false"},
    "policy_id": None,
    "warnings": ["volume x has 40 files", "volume y has 41 files"],
}
POLICY = "8b8b8b8b-8888-4888-8888-888888888888"


class Client:
    """Finds everything under ``id of NAME`` and remembers what it was asked."""

    def __init__(self, **changes: Any) -> None:
        self.found = {**FOUND, **changes}
        self.asked: list[Any] = []

    def find_server(self, name: str) -> str:
        return f"id of {name}"

    find_volume = find_server

    def create(self, server: str, wanted: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((server, wanted))
        return {**FOUND, "status": "creating", "consistency": None}

    def wait(self, set_id: str, seconds: float | None, progressed: Any) -> dict[str, Any]:
        self.asked.append(("wait", set_id, seconds))
        if seconds == 0:
            raise StillRunning("not through after 0 s")
        for status, progress in (("creating", 10), ("creating", 10), (self.found["status"], 100)):
            progressed({"status": status, "progress": progress})
        return self.found

    def list(self, server: str | None, policy: str | None) -> "list[dict[str, Any]]":
        self.asked.append(("list", server, policy))
        return [self.found]

    def compute(self, method: str, path: str, body: Any = None) -> Any:
        self.asked.append((method, path, body))
        return {"snapshot_policies": [{"id": POLICY, "name": "hourly/x"}]}

    def change(self, set_id: str, changes: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(("change", set_id, changes))
        return {**self.found, **changes}

    def show(self, name: str) -> dict[str, Any]:
        self.asked.append(("show", name))
        return self.found

    def delete(self, name: str) -> str:
        self.asked.append(("delete", name))
        return f"id of {name}"

    def wait_gone(self, set_id: str, seconds: float | None, _progressed: Any) -> None:
        self.asked.append(("wait gone", set_id, seconds))


def run(command: Any, client: Client, *arguments: str) -> Any:
    app = SimpleNamespace(client_manager=SimpleNamespace(assisted_snapshot=client))
    made = command(app, argparse.Namespace())
    return made.take_action(made.get_parser("test").parse_args(list(arguments)))


def shown(answer: Any) -> dict[str, Any]:
    names, values = answer
    return dict(zip(names, values, strict=True))


def test_a_set_is_asked_for_with_its_defaults() -> None:
    client = Client()
    run(osc.Create, client, "web")
    wanted: dict[str, Any] = {"name": None, "description": None, "metadata": {}, "volumes": "all"}
    assert client.asked == [("id of web", wanted)]


def test_a_set_is_asked_for_with_everything() -> None:
    client = Client()
    options = ["--name", "n", "--description", "d", "--volume", "a", "--volume", "b", "--quiesce", "required"]
    options += ["--allow-unfreezable", "vfat", "--allow-unfreezable", "/boot/efi", "--hook-timeout", "90"]
    run(osc.Create, client, *options, "--property", "k=v=w", "--property", "l=", "web")
    assert client.asked[0][1] == {
        "name": "n",
        "description": "d",
        "metadata": {"k": "v=w", "l": ""},
        "volumes": ["id of a", "id of b"],
        "quiesce": "required",
        "allow_unfreezable": ["vfat", "/boot/efi"],
        "hook_timeout": 90,
    }


def test_a_set_is_asked_for_under_an_id_and_with_a_time_it_may_wait() -> None:
    client = Client()
    run(osc.Create, client, "--id", SET, "--wait-for-server", "600", "web")
    asked = client.asked[0][1]
    assert (asked["id"], asked["wait"]) == (SET, 600)


@pytest.mark.parametrize(
    "options",
    [
        ["--quiesce", "maybe", "web"],
        [],
        ["web", "more"],
        *(["--wait-for-server", each, "web"] for each in ("-1", "86401", "x")),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(options: list[str]) -> None:
    with pytest.raises(SystemExit):
        run(osc.Create, Client(), *options)


@pytest.mark.parametrize("text", ["k", "=v", ""])
def test_a_property_without_a_key_or_a_value_is_refused(text: str) -> None:
    client = Client()
    with pytest.raises((argparse.ArgumentTypeError, SystemExit)):
        run(osc.Create, client, "--property", text, "web")
    assert client.asked == []


def test_waiting_shows_the_end_and_each_change_once(capsys: pytest.CaptureFixture[str]) -> None:
    client = Client()
    assert shown(run(osc.Create, client, "--wait", "web"))["status"] == "available"
    assert client.asked[-1] == ("wait", SET, None)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["assisted snapshot: creating 10 %", "assisted snapshot: available 100 %"]


def test_a_set_that_failed_while_waited_for_is_an_error() -> None:
    with pytest.raises(StepFailed, match=f"{SET} is error: the share is full"):
        run(osc.Create, Client(status="error", fault="the share is full"), "--wait", "web")


def test_waiting_tells_what_the_set_waits_for(capsys: pytest.CaptureFixture[str]) -> None:
    with waits.progress("assisted snapshot") as progressed:
        progressed({"status": "creating", "progress": 0, "fault": "it waits: a merge"})
    assert capsys.readouterr().err == "assisted snapshot: creating 0 % (it waits: a merge)\n"


def coded(command: Any, client: Client, *arguments: str) -> tuple[int, str, list[Any]]:
    """Runs a command as cliff does; returns its exit code, what it printed, and the errors it told."""
    told: list[Any] = []
    out = io.StringIO()
    app = SimpleNamespace(
        client_manager=SimpleNamespace(assisted_snapshot=client), stdout=out, LOG=SimpleNamespace(error=told.append)
    )
    made = command(app, argparse.Namespace())
    code = made.run(made.get_parser("test").parse_args(list(arguments)))
    return code, out.getvalue(), told


@pytest.mark.parametrize(
    ("outcome", "code"), [(OUTCOME, 0), (None, 0), ({**OUTCOME, "level": "crash", "degraded_reason": "no agent"}, 3)]
)
def test_a_set_that_is_only_crash_consistent_is_told_by_the_exit_code(outcome: Any, code: int) -> None:
    client = Client(consistency=outcome)
    ended, shown_, told = coded(osc.Create, client, "--require", "filesystem", "web")
    assert (ended, told) == (code, [])
    assert SET in shown_
    assert ("no agent" in shown_) is (code == 3)
    assert client.asked[-1] == ("wait", SET, None)
    assert coded(osc.Create, client, "--wait", "web")[0] == 0


def test_a_bounded_wait_ends_with_a_code_of_its_own() -> None:
    client = Client()
    code, printed, told = coded(osc.Create, client, "--timeout", "0", "web")
    assert (code, printed, [str(each).partition("\n")[0] for each in told]) == (4, "", ["not through after 0 s"])
    run(osc.Create, client, "--timeout", "90", "web")
    assert client.asked[-1] == ("wait", SET, 90)
    run(osc.Delete, client, "--timeout", "90", "a")
    assert client.asked[-1][:2] == ("wait gone", "id of a")
    assert 0 < client.asked[-1][2] <= 90


@pytest.mark.parametrize("seconds", ["-1", "1.5", "soon", "", "9999999999"])
def test_a_timeout_that_is_no_number_of_seconds_is_refused(seconds: str) -> None:
    client = Client()
    with pytest.raises(SystemExit):
        run(osc.Create, client, f"--timeout={seconds}", "web")
    assert client.asked == []


def test_a_set_is_shown_with_its_consistency_in_columns() -> None:
    found = shown(run(osc.Show, Client(), "nightly"))
    assert list(found) == [
        "id",
        "server_id",
        "name",
        "description",
        "status",
        "progress",
        "created_at",
        "switched_at",
        "switched_at_uncertainty_ms",
        "switched_at_note",
        "quiesce",
        "consistency",
        "frozen_ms",
        "filesystems",
        "flushed",
        "degraded_reason",
        "volumes",
        "excluded_disks",
        "fault",
        "policy_id",
        "properties",
        "warnings",
    ]
    assert (found["consistency"], found["frozen_ms"], found["filesystems"]) == ("filesystem", 123.4, 2)


@pytest.mark.parametrize(("status", "word"), [("available", "exact"), ("creating", None), ("error", None)])
def test_a_set_without_an_outcome_is_exact_only_when_it_is_there(status: str, word: str | None) -> None:
    assert shown(run(osc.Show, Client(status=status, consistency=None), SET))["consistency"] == word


def test_lists_are_lines_for_people_and_lists_for_programs() -> None:
    found = shown(run(osc.Show, Client(), SET))
    assert found["volumes"].human_readable() == f"volume_id={VOLUME}, name=data, device=/dev/vdb, status=available"
    assert found["volumes"].machine_readable() == FOUND["volumes"]
    assert found["excluded_disks"].human_readable() == "device=/dev/vdz, reason=no volume"
    assert found["properties"].human_readable() == "a=b\nkeep=false"
    assert found["properties"].machine_readable() == FOUND["metadata"]
    assert found["warnings"].human_readable() == "volume x has 40 files\nvolume y has 41 files"
    assert found["warnings"].machine_readable() == FOUND["warnings"]


def test_a_list_has_the_columns_written_here() -> None:
    client = Client()
    names, rows = run(osc.List, client)
    assert names == ("ID", "Name", "Server ID", "Status", "Consistency", "Frozen ms", "Volumes", "Created At")
    assert [*rows[0][:6], rows[0][7]] == [SET, "nightly", SERVER, "available", "filesystem", 123.4, FOUND["created_at"]]
    assert rows[0][6].human_readable() == "data (/dev/vdb)"
    assert rows[0][6].machine_readable() == FOUND["volumes"]
    run(osc.List, client, "--server", "web")
    assert client.asked == [("list", None, None), ("list", "id of web", None)]


def test_a_list_of_what_a_policy_made() -> None:
    client = Client()
    run(osc.List, client, "--policy", "hourly/x")
    assert client.asked == [("GET", "/os-snapshot-policies?name=hourly%2Fx", None), ("list", None, POLICY)]


def test_a_list_shows_sets_that_have_no_outcome_yet() -> None:
    _, rows = run(osc.List, Client(consistency=None, status="creating"))
    assert rows[0][4:6] == (None, None)


def test_several_sets_are_deleted_and_waited_for_one_by_one() -> None:
    client = Client()
    run(osc.Delete, client, "a", "b")
    run(osc.Delete, client, "--wait", "c")
    assert client.asked == [("delete", "a"), ("delete", "b"), ("delete", "c"), ("wait gone", "id of c", None)]


def test_a_set_is_labelled_beside_what_it_has() -> None:
    client = Client()
    assert shown(run(osc.Set, client, "--keep", "nightly"))["properties"].machine_readable() == {"a": "b", "keep": "true"}
    assert client.asked == [("show", "nightly"), ("change", SET, {"metadata": {"a": "b", "keep": "true"}})]


def test_a_label_is_taken_off() -> None:
    client = Client()
    run(osc.Set, client, "--no-keep", "nightly")
    assert client.asked[-1] == ("change", SET, {"metadata": {"a": "b"}})


def test_a_set_is_named_and_described_and_given_properties() -> None:
    client = Client()
    run(osc.Set, client, "--name", "n", "--description", "", "--property", "c=d", "--property", "a=e", "nightly")
    metadata = {"a": "e", "keep": "false", "c": "d"}
    assert client.asked[-1] == ("change", SET, {"name": "n", "description": "", "metadata": metadata})


def test_what_is_so_already_is_not_asked_for() -> None:
    client = Client(metadata={"keep": "true"})
    run(osc.Set, client, "--keep", "nightly")
    assert client.asked == [("show", "nightly")]


@pytest.mark.parametrize(
    "options", [["nightly"], ["--keep", "--no-keep", "nightly"], ["--keep"], ["--property", "x", "nightly"]]
)
def test_a_label_that_makes_no_sense_is_refused(options: list[str]) -> None:
    client = Client()
    with pytest.raises((SystemExit, BadRequest, argparse.ArgumentTypeError)):
        run(osc.Set, client, *options)
    assert not [each for each in client.asked if each[0] == "change"]

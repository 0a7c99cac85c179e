"""The command line: an unmodified ``openstack`` with the generated clouds.yaml, and ``stillframe`` without it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.guest.domain import GuestOptions
from tests.support.lab import Lab, open_lab
from tests.support.openstack_client import openstack
from tests.support.service import PROGRAM
from tests.support.stack import wait_for

PROGRAM_OF_OPENSTACK = [str(Path(sys.executable).with_name("openstack"))]
OPENSTACK = ["openstack"]  # the same, started in less time


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = open_lab(tmp_path_factory.mktemp("operator"))
    try:
        made.add_guest(1, GuestOptions(name="web"))
        yield made
    finally:
        made.clear()


def run(lab: Lab, command: list[str], *arguments: str, code: int = 0) -> str:
    environment = {
        "OS_CLIENT_CONFIG_FILE": str(lab.stack.state_dir / "clouds.yaml"),
        "OS_CLOUD": "stillframe",
        "COLUMNS": "200",
    }
    if command == OPENSTACK:
        done = openstack(arguments, environment)
    else:
        ours = {**os.environ, **environment}
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=ours, check=False, timeout=120)
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


def document(lab: Lab, command: list[str], *arguments: str) -> Any:
    return json.loads(run(lab, command, *arguments, "-f", "json"))


def test_openstack_creates_lists_and_shows_volumes(operator: Lab) -> None:
    made = document(operator, PROGRAM_OF_OPENSTACK, "volume", "create", "--size", "1", "data")
    assert (made["name"], made["size"]) == ("data", 1)
    wait_for(lambda: operator.api.volume(made["id"])["status"] == "available", "the volume")
    assert document(operator, PROGRAM_OF_OPENSTACK, "volume", "show", "data")["status"] == "available"
    listed = {row["ID"]: row for row in document(operator, PROGRAM_OF_OPENSTACK, "volume", "list")}
    assert listed[made["id"]]["Status"] == "available"
    assert listed[operator.volumes[0]]["Attached to"][0]["server_id"] == operator.guest.id


def test_qemu_runs_in_its_sandbox(operator: Lab) -> None:
    """As the page on who is trusted with what says of the private daemon."""
    pid = (operator.stack.state_dir / f"libvirt/run/qemu/{operator.guest.options.name}.pid").read_text().strip()
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert b"\0-sandbox\0on," in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_openstack_adds_and_removes_a_volume(operator: Lab) -> None:
    assert document(operator, OPENSTACK, "server", "list")[0]["Name"] == "web"
    assert document(operator, OPENSTACK, "server", "show", "web")["status"] == "ACTIVE"
    added = document(operator, OPENSTACK, "server", "add", "volume", "web", "data")
    assert (added["Server ID"], added["Device"]) == (operator.guest.id, "/dev/vdb")
    wait_for(lambda: operator.api.volume(added["Volume ID"])["status"] == "in-use", "the attachment")
    assert added["Volume ID"] in operator.guest.domain.XMLDesc(0)
    run(operator, OPENSTACK, "server", "remove", "volume", "web", "data")
    wait_for(lambda: operator.api.volume(added["Volume ID"])["status"] == "available", "the detachment")
    assert added["Volume ID"] not in operator.guest.domain.XMLDesc(0)
    # The guest notices a little later; until then its agent counts a filesystem that cannot be frozen any more.
    wait_for(lambda: "/mnt/vdb" not in operator.guest.execute("cat /proc/mounts"), "the guest to drop the filesystem")


@pytest.mark.parametrize(
    ("command", "noun"),
    [(OPENSTACK, ["assisted", "snapshot"]), (PROGRAM, ["assisted-snapshot"])],
    ids=["openstack", "stillframe"],
)
def test_assisted_snapshots_from_either_command(operator: Lab, command: list[str], noun: list[str]) -> None:
    name = noun[0]
    made = document(
        operator, command, *noun, "create", "--wait", "--quiesce", "required", "--name", name, "--property", "a=b", "web"
    )
    assert (made["status"], made["consistency"], made["filesystems"]) == ("available", "filesystem", 1)
    assert made["frozen_ms"] > 0
    assert made["volumes"][0]["volume_id"] == operator.volumes[0]
    listed = {row["ID"]: row for row in document(operator, command, *noun, "list", "--server", "web")}
    assert listed[made["id"]]["Consistency"] == "filesystem"
    assert document(operator, command, *noun, "show", name) == document(operator, command, *noun, "show", made["id"])
    snapshot = document(operator, OPENSTACK, "volume", "snapshot", "show", name)
    assert (snapshot["status"], snapshot["volume_id"]) == ("available", operator.volumes[0])
    assert name in [row["Name"] for row in document(operator, OPENSTACK, "volume", "snapshot", "list")]
    assert "filesystem" in run(operator, command, *noun, "show", name)
    assert "no server" in run(operator, command, *noun, "create", "nosuch", code=1)
    assert "no volume" in run(operator, command, *noun, "create", "--volume", "nosuch", "web", code=1)
    run(operator, command, *noun, "create", "--quiesce", "maybe", "web", code=2)


def test_a_set_is_deleted_from_the_command_line(operator: Lab) -> None:
    """One under the running guest, one with nothing attached."""
    kept = [found["id"] for found in operator.api.ok("compute", "GET", "/os-assisted-snapshots")["assisted_snapshots"]]
    run(operator, PROGRAM, "assisted-snapshot", "delete", "--wait", kept[0])
    operator.guest.still_writes()
    operator.guest.domain.destroy()
    operator.api.detach(operator.guest.id, operator.volumes[0])
    run(operator, OPENSTACK, "assisted", "snapshot", "delete", "--wait", kept[1])
    assert document(operator, PROGRAM, "assisted-snapshot", "list") == []
    assert document(operator, OPENSTACK, "volume", "snapshot", "list") == []
    operator.check_sound()


def test_snapshots_with_nothing_attached_from_an_unmodified_client(operator: Lab) -> None:
    made = document(operator, OPENSTACK, "volume", "snapshot", "create", "--volume", operator.volumes[0], "offline")
    wait_for(lambda: operator.api.snapshot(made["id"])["status"] == "available", "the snapshot")
    assert operator.api.snapshot(made["id"])["consistency"] is None
    run(operator, OPENSTACK, "volume", "snapshot", "delete", "offline")
    wait_for(lambda: operator.api.send("volume", "GET", f"/snapshots/{made['id']}").status_code == 404, "the deletion")
    operator.check_sound()


def test_the_rest_that_an_unmodified_client_asks_for(operator: Lab) -> None:
    assert document(operator, OPENSTACK, "volume", "type", "list")[0]["Name"] == "local"
    assert document(operator, OPENSTACK, "availability", "zone", "list", "--volume")[0]["Zone Name"] == "nova"
    services = document(operator, OPENSTACK, "--os-cloud", "stillframe-admin", "volume", "service", "list")
    assert services[0]["State"] == "up"
    limits = {row["Name"]: row["Value"] for row in document(operator, OPENSTACK, "limits", "show", "--absolute")}
    assert json.dumps(limits)
    run(operator, OPENSTACK, "volume", "set", "--name", "renamed", "--property", "x=y", "data")
    assert document(operator, OPENSTACK, "volume", "show", "renamed")["properties"] == {"x": "y"}
    run(operator, OPENSTACK, "volume", "delete", "renamed")


def test_shell_completion_names_every_command(operator: Lab) -> None:
    script = run(operator, PROGRAM, "complete")
    for command in ("assisted_snapshot_create", "serve", "worker", "operation_list"):
        assert command.replace("assisted_snapshot", "assisted_snapshot") in script.replace("-", "_")


def test_operations_can_be_looked_at(operator: Lab) -> None:
    state = ["--state-dir", str(operator.stack.state_dir)]
    wait_for(lambda: document(operator, PROGRAM, "operation", "list", *state) == [], "the end of what earlier tests began")
    ended = document(operator, PROGRAM, "operation", "list", "--all", *state)
    taken = next(row["ID"] for row in ended if row["Kind"] == "assisted_snapshot")
    shown = document(operator, PROGRAM, "operation", "show", *state, taken)
    assert (shown["state"], json.loads(shown["evidence"])["switch"]["switched"]) == ("done", True)
    assert "there is no operation" in run(operator, PROGRAM, "operation", "show", *state, "x", code=1)

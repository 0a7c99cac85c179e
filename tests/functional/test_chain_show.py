"""The chain of a volume, over REST, from ``stillframe`` and from OpenStackClient: what is shown is what lies on the share."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from stillframe.db.tables import volumes as table
from stillframe.host import files
from tests.support import qemu_io
from tests.support.lab import open_lab
from tests.support.operator import Operator
from tests.support.service import PROGRAM
from tests.support.stack import wait_for

OPENSTACK = [str(Path(sys.executable).with_name("openstack")), "volume", "chain", "show"]
STILLFRAME = [*PROGRAM, "chain", "show"]
UNDO = "the last revert can still be undone"


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    made = open_lab(tmp_path_factory.mktemp("chains"))
    try:
        yield Operator(made)
    finally:
        made.clear()


def run(operator: Operator, command: list[str], *arguments: str, code: int = 0) -> str:
    environment = {**os.environ, "OS_CLIENT_CONFIG_FILE": str(operator.state / "clouds.yaml"), "OS_CLOUD": "stillframe"}
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, check=False, timeout=120)
    assert done.returncode == code, done
    return done.stdout if code == 0 else done.stderr


def chain(operator: Operator, volume_id: str) -> dict[str, Any]:
    found: dict[str, Any] = operator.api.ok("volume", "GET", f"/volumes/{volume_id}/stillframe-chain")["chain"]
    return found


def revert(operator: Operator, volume_id: str, snapshot_id: str) -> None:
    body = {"revert": {"snapshot_id": snapshot_id, "newer_snapshots": "keep"}}
    operator.api.ok("volume", "POST", f"/volumes/{volume_id}/action", body)
    wait_for(lambda: operator.api.volume(volume_id)["status"] == "available", "the revert")
    operator.settle()


def clone(operator: Operator, snapshot_id: str) -> str:
    """A linked clone."""
    admin = operator.lab.stack.api("stillframe-admin")
    specs = {"stillframe:linked_clone": "true"}
    if not any(each["name"] == "linked" for each in admin.ok("volume", "GET", "/types")["volume_types"]):
        admin.ok("volume", "POST", "/types", {"volume_type": {"name": "linked", "extra_specs": specs}})
    body = {"volume": {"snapshot_id": snapshot_id, "volume_type": "linked", "size": 1}}
    made = operator.api.ok("volume", "POST", "/volumes", body)["volume"]["id"]
    wait_for(lambda: operator.api.volume(made)["status"] == "available", "the linked clone")
    operator.settle()
    return str(made)


def test_a_chain_is_what_lies_on_the_share(operator: Operator) -> None:
    volume_id = operator.volume("plain")
    first, second = operator.snapshot(volume_id, "first"), operator.snapshot(volume_id, "second")
    found = chain(operator, volume_id)
    base = f"volume-{volume_id}"
    files_shown = [each["name"] for each in found["files"]]
    assert files_shown == [base, f"{base}.{first}", f"{base}.{second}"]
    assert (found["depth"], found["active_file"], found["problem"], found["parent_image"]) == (3, files_shown[2], None, None)
    for each in found["files"]:
        assert each["allocated"] == files.allocated(operator.share, each["name"])
        assert (each["format"], each["virtual_size"], each["in_active_chain"], each["hidden"]) == (
            "qcow2",
            1 << 30,
            True,
            False,
        )
    assert [each["active"] for each in found["files"]] == [False, False, True]
    assert [[held["name"] for held in each["snapshots"]] for each in found["files"]] == [["first"], ["second"], []]
    assert [each["writes_after"] for each in found["files"]] == [[], [first], [second]]
    assert [each["backing"] for each in found["files"]] == [None, base, f"{base}.{first}"]
    assert [each["needed_by"]["files"] for each in found["files"]] == [[files_shown[1]], [files_shown[2]], []]


@pytest.mark.parametrize("command", [STILLFRAME, OPENSTACK], ids=["stillframe", "openstack"])
def test_either_command_draws_branches_clones_and_hidden_files(operator: Operator, command: list[str]) -> None:
    name = f"tree-{command is OPENSTACK}"
    volume_id = operator.volume(name)
    first = operator.snapshot(volume_id, "first")
    second = operator.snapshot(volume_id, "second")
    qemu_io.write(operator.share, operator.overlay(volume_id, second).name, b"left behind")
    revert(operator, volume_id, first)
    linked = clone(operator, second)
    found = json.loads(run(operator, command, "-f", "json", name))
    assert found == chain(operator, volume_id)
    shown = {each["name"]: each for each in found["files"]}
    base, tip = f"volume-{volume_id}", f"volume-{volume_id}.{second}"
    middle = f"{base}.{first}"
    assert (shown[tip]["hidden"], shown[tip]["why"], shown[tip]["needed_by"]["undo_of_revert"]) == (True, UNDO, True)
    assert shown[middle]["needed_by"]["linked_volumes"] == [linked] and not shown[middle]["in_active_chain"]
    drawn = run(operator, command, name).splitlines()
    active = found["active_file"]
    assert drawn[0].startswith(f"{name} ({volume_id}): 1 GiB, available; 4 files, ")
    assert [line.split()[:2] for line in drawn if base in line.split("(")[0]] == [
        ["●", base],
        ["├─●", middle],
        ["│", "○"],
        ["◉", active],
    ]
    assert f"hidden: {UNDO}" in "\n".join(drawn) and f"read by linked volume {linked}" in "\n".join(drawn)
    drawn = run(operator, command, linked).splitlines()
    assert drawn[1:3] == [f"◌ {middle}", f"│   of volume {volume_id}, which this one is linked to"]
    assert chain(operator, linked)["parent_image"]["file"] == middle


def test_a_file_kept_for_a_clone_says_why_after_its_snapshot_is_gone(operator: Operator) -> None:
    volume_id = operator.volume("kept")
    first = operator.snapshot(volume_id, "first")
    second = operator.snapshot(volume_id, "second")
    clone(operator, second)
    operator.api.ok("volume", "DELETE", f"/snapshots/{first}")
    wait_for(lambda: operator.api.send("volume", "GET", f"/snapshots/{first}").status_code == 404, "the deletion")
    operator.settle()
    (base,) = [each for each in chain(operator, volume_id)["files"] if each["name"] == f"volume-{volume_id}"]
    assert (base["hidden"], base["why"]) == (True, "a file above it is read by a linked volume")


def test_a_broken_chain_is_shown_with_what_is_wrong(operator: Operator) -> None:
    volume_id = operator.volume("broken")
    overlay = operator.overlay(volume_id, operator.snapshot(volume_id))
    content = overlay.read_bytes()
    overlay.write_bytes(b"not an image" * 100)
    found = chain(operator, volume_id)
    assert "missing" in found["problem"]
    assert "not a qcow2 file" in next(each["problem"] for each in found["files"] if each["name"] == overlay.name)
    assert f"! {overlay.name}" in run(operator, STILLFRAME, "broken")
    overlay.write_bytes(content)
    assert chain(operator, volume_id)["problem"] is None


def test_a_missing_volume_and_one_of_another_project(operator: Operator) -> None:
    volume_id = operator.volume("twice")
    other = operator.volume("twice")
    assert "2 volumes have the name" in run(operator, STILLFRAME, "twice", code=1)
    assert "no volume has the name or id 'nosuch'" in run(operator, STILLFRAME, "nosuch", code=1)
    with operator.database().write() as connection:
        connection.execute(update(table).where(table.c.id == other).values(project_id="strangers"))
    answer = operator.api.send("volume", "GET", f"/volumes/{other}/stillframe-chain")
    missing = operator.api.send("volume", "GET", f"/volumes/{'0' * 8}{other[8:]}/stillframe-chain")
    assert (answer.status_code, missing.status_code) == (404, 404)
    assert answer.json()["itemNotFound"]["message"].replace(other, "") == missing.json()["itemNotFound"]["message"].replace(
        f"{'0' * 8}{other[8:]}", ""
    )
    assert operator.lab.stack.api("stillframe-admin").ok("volume", "GET", f"/volumes/{other}/stillframe-chain")
    assert json.loads(run(operator, STILLFRAME, "-f", "json", "twice"))["volume_id"] == volume_id


def test_a_clone_of_another_project_is_counted_and_not_named(operator: Operator) -> None:
    volume_id = operator.volume("shared")
    linked = clone(operator, operator.snapshot(volume_id, "first"))
    with operator.database().write() as connection:
        connection.execute(update(table).where(table.c.id == linked).values(project_id="strangers"))
    (base, _active) = chain(operator, volume_id)["files"]
    assert (base["needed_by"]["linked_volumes"], base["needed_by"]["foreign_linked_volumes"]) == ([], 1)
    assert linked not in run(operator, STILLFRAME, "shared")

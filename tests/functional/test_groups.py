"""The page about volume groups, command by command with an unmodified OpenStackClient, and every byte of what it makes."""

import shlex
import time
from collections.abc import Iterator
from typing import Any

import pytest

from stillframe.chain.names import base_name, overlay_name
from stillframe.host import files
from tests.crash.stage import write
from tests.functional.test_tutorial import ROOT, spans
from tests.support.lab import open_lab
from tests.support.openstack_client import openstack
from tests.support.operator import Operator
from tests.support.qcow2_content import filled
from tests.support.stack import wait_for

PAGE = ROOT / "docs/how-to/volume-groups.md"
BEFORE = {"orders": {0: 11, 3: 12}, "stock": {1: 21, 2: 22}}
AFTERWARDS = {"orders": {3: 13, 8: 14}, "stock": {2: 23}}
NOW = {name: {**BEFORE[name], **AFTERWARDS[name]} for name in BEFORE}


@pytest.fixture
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    lab = open_lab(tmp_path_factory.mktemp("groups"))
    try:
        yield Operator(lab)
    finally:
        lab.clear()


def typed(command: str) -> None:
    """Types a command, again while what it names is held by what is written beside the files."""
    said: list[str] = []

    def works() -> bool:
        done = openstack(shlex.split(command)[1:], {})
        said.append(done.stdout + done.stderr)
        if done.returncode != 0:
            time.sleep(0.5)
        return done.returncode == 0

    try:
        wait_for(works, f"the success of {command!r}", 60)
    except AssertionError as error:
        raise AssertionError(f"{error}:\n{said[-1]}") from error


def group(operator: Operator, name: str) -> dict[str, Any]:
    every = operator.api.ok("volume", "GET", "/groups/detail")["groups"]
    (found,) = (each for each in every if each["name"] == name)
    return dict(found)


def content(operator: Operator, name: str) -> dict[str, dict[int, int]]:
    """What the volumes of a group read as, by their names."""
    wait_for(lambda: group(operator, name)["status"] == "available", f"group {name}")
    operator.settle()
    group_id, every = group(operator, name)["id"], operator.api.ok("volume", "GET", "/volumes/detail")["volumes"]
    of = {each["name"]: each["id"] for each in every if each["group_id"] == group_id}
    return {each: filled(operator.share, base_name(volume_id)) for each, volume_id in of.items()}


def test_the_page_can_be_typed_and_every_byte_is_that_of_its_moment(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(operator.state / "clouds.yaml"))
    monkeypatch.setenv("OS_CLOUD", "stillframe")
    told = [found for found in spans(PAGE.read_text()) if found.startswith("openstack --")]
    kinds, rest = told[:3], told[3:]
    for command in kinds:
        typed(command)
    shop = group(operator, "shop")["id"]
    ids = {"orders": operator.api.create_volume("orders", group_id=shop), "stock": operator.volume("stock")}
    operator.api.ok("volume", "PUT", f"/groups/{shop}", {"group": {"add_volumes": ids["stock"]}})
    operator.settle()
    for name, clusters in BEFORE.items():
        write(operator.share / base_name(ids[name]), clusters)
    take, from_snapshot, from_group, *deletions = rest
    typed(take)
    operator.settle()
    taken = operator.api.ok("volume", "GET", "/snapshots/detail")["snapshots"]
    assert {each["status"] for each in taken} == {"available"}
    tops = {each["volume_id"]: overlay_name(each["volume_id"], each["id"]) for each in taken}
    for name, clusters in AFTERWARDS.items():
        write(operator.share / tops[ids[name]], clusters)
    assert {name: filled(operator.share, tops[volume_id]) for name, volume_id in ids.items()} == NOW
    typed(from_snapshot)
    assert content(operator, "shop-on-monday") == BEFORE
    typed(from_group)
    assert content(operator, "shop-copy") == NOW
    typed(deletions[0])
    wait_for(lambda: operator.api.ok("volume", "GET", "/group_snapshots")["group_snapshots"] == [], "the deletion")
    assert operator.api.ok("volume", "GET", "/snapshots")["snapshots"] == []
    assert content(operator, "shop") == NOW
    for command in deletions[1:]:
        typed(command)
    wait_for(lambda: operator.api.ok("volume", "GET", "/groups")["groups"] == [], "the end of the groups")
    assert operator.api.ok("volume", "GET", "/volumes")["volumes"] == []
    assert [name for name in files.listing(operator.share) if name.startswith("volume-")] == []

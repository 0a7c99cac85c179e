"""The table of volume operations in the documentation, command by command, with an unmodified OpenStackClient."""

import shlex
import subprocess
import time
from collections.abc import Iterator

import pytest

from stillframe.host import files, qemu_img
from tests.functional.test_tutorial import ROOT, spans
from tests.support.openstack_client import openstack
from tests.support.stack import Stack, wait_for

PAGE = ROOT / "docs/how-to/volume-operations.md"
NEEDS_GLANCE = ("openstack image create", "openstack volume create --image")
NOT_RUN = (
    "openstack quota set",
    "openstack assisted snapshot create",
)


@pytest.fixture
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("page") / "stillframe")  # a socket's path has 107 bytes at most
    made.start()
    yield made
    made.stop()
    made.destroy()


def test_the_table_can_be_typed_from_top_to_bottom(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(stack.state_dir / "clouds.yaml"))
    monkeypatch.setenv("OS_CLOUD", "stillframe")
    told = [found for found in spans(PAGE.read_text()) if found.startswith("openstack ")]
    told = [found for found in told if not found.startswith(NOT_RUN)]
    assert len(told) > 25
    admin = stack.api("stillframe-admin")
    (pool,) = admin.ok("volume", "GET", "/scheduler-stats/get_pools")["pools"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", stack.share / "old.qcow2", "1G"], check=True)
    (stack.share / "old.qcow2").chmod(0o660)
    for command in told:
        _type(command.replace("HOST@BACKEND#SHARE", pool["name"]))
    wait_for(lambda: _statuses(stack) == {"from-monday": "available", "unmanaged": "yes"}, "the end of it all")


def _statuses(stack: Stack) -> dict[str, str]:
    """What the page leaves: one copy, and the file of the volume that was given up."""
    volumes = stack.api("stillframe-admin").ok("volume", "GET", "/volumes/detail?all_tenants=1")["volumes"]
    abandoned_operations = [name for name in files.listing(stack.share) if name.startswith("unmanaged-")]
    if abandoned_operations:
        qemu_img.check(stack.share, abandoned_operations[0], "qcow2")
    return {each["name"]: each["status"] for each in volumes} | ({"unmanaged": "yes"} if abandoned_operations else {})


def _type(command: str) -> None:
    """Types a command, again while the one before is not through, as the page says. What needs a Glance says so."""
    answers: list[str] = []

    def works() -> bool:
        done = openstack(shlex.split(command)[1:], {})
        answers.append(done.stdout + done.stderr)
        if command.startswith(NEEDS_GLANCE):
            return done.returncode != 0 and "image" in answers[-1]
        if done.returncode != 0:
            time.sleep(0.5)
        return done.returncode == 0

    try:
        wait_for(works, f"the success of {command!r}", 25)
    except AssertionError as error:
        raise AssertionError(f"{error}:\n{answers[-1]}") from error

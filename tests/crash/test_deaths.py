"""The other processes die: libvirtd, QEMU; an answer is lost. What happened is read from the descriptions and headers."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.quiesce import record as freeze_record
from tests.support.lab import Lab, open_lab
from tests.support.processes import child
from tests.support.stack import wait_for

Make = Callable[[str], Lab]


@pytest.fixture(scope="module")
def labs() -> Iterator[list[Lab]]:
    """The one that the test before left, if it left it sound."""
    made: list[Lab] = []
    yield made
    for each in made:
        each.clear()


@pytest.fixture
def make(labs: list[Lab], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Services with a failpoint, and a guest that runs. Whatever died, all is sound in the end."""

    def one(failpoint: str) -> Lab:
        if not labs:
            labs.append(open_lab(tmp_path_factory.mktemp("deaths"), "[compute]\nfreeze_deadline_seconds = 8\n"))
            labs[0].add_guest(2)
        labs[0].stack.kill()
        labs[0].stack.start(failpoint)
        return labs[0]

    yield one
    try:
        for lab in labs:
            lab.check_sound()
            lab.guest.still_writes()
    except Exception:
        labs.pop().clear()
        raise


def ask(lab: Lab) -> str:
    path = f"/servers/{lab.guest.id}/os-assisted-snapshots"
    body = {"assisted_snapshot": {"quiesce": "required"}}
    return str(lab.api.ok("compute", "POST", path, body)["assisted_snapshot"]["id"])


def wait_frozen(lab: Lab) -> None:
    """Waits until the worker stands at its failpoint inside the window."""
    wait_for(lambda: freeze_record.read_all(lab.stack.state_dir / "freeze") != [], "the freeze")
    time.sleep(1)


def kill_pid_file(path: Path) -> None:
    os.kill(int(path.read_text()), signal.SIGKILL)


def nothing_remains(lab: Lab, found: dict[str, Any]) -> None:
    assert found["status"] == "error"
    gone = [lab.api.send("volume", "GET", f"/snapshots/{entry['snapshot_id']}").status_code for entry in found["volumes"]]
    assert gone == [404] * len(gone)


def test_libvirtd_dies_inside_the_window(make: Make) -> None:
    lab = make("quiesce/frozen:sleep=2")
    set_id = ask(lab)
    wait_frozen(lab)
    kill_pid_file(lab.stack.state_dir / "libvirt/run/libvirtd.pid")
    found = lab.api.wait_set(set_id)
    wait_for(lambda: freeze_record.read_all(lab.stack.state_dir / "freeze") == [], "the thaw", 60)
    lab.guest.still_writes()
    assert not lab.guest.frozen()
    if found["status"] == "available":
        lab.check_one_instant(found)
    else:
        nothing_remains(lab, found)


@pytest.mark.parametrize("place", ["frozen", "switched"])
def test_qemu_dies_inside_the_window(make: Make, place: str) -> None:
    lab = make(f"quiesce/{place}:sleep=2")
    set_id = ask(lab)
    wait_frozen(lab)
    kill_pid_file(lab.stack.state_dir / f"libvirt/run/qemu/{lab.guest.options.name}.pid")
    found = lab.api.wait_set(set_id)
    wait_for(lambda: freeze_record.read_all(lab.stack.state_dir / "freeze") == [], "the end of the record", 60)
    # Killed before the switch too, libvirt may still rewrite the definition of the now stopped domain: then the set
    # exists, as of the power loss, and says so.
    assert found["status"] == "error"
    if place == "switched" or found["consistency"] is not None:
        assert found["consistency"]["level"] == "crash"
        lab.check_one_instant(found)
    else:
        nothing_remains(lab, found)
    lab.check_sound()
    lab.guest.console.unlink()
    lab.api.ok("compute", "POST", f"/servers/{lab.guest.id}/action", {"os-start": None})
    lab.guest.wait_ready()
    after = lab.api.take(lab.guest.id, quiesce="required")
    lab.check_one_instant(after)


def test_an_error_after_the_switch_is_not_taken_for_a_failure(make: Make) -> None:
    """Finding 13: the call says it failed, yet every disk was switched. The overlays are in use and must stay."""
    lab = make("quiesce/switched:fail")
    found = lab.api.wait_set(ask(lab))
    assert all(entry["status"] == "available" for entry in found["volumes"])
    assert (found["status"], found["consistency"]["level"]) == ("error", "crash")
    lab.check_one_instant(found)
    lab.guest.still_writes()


def test_the_watchdog_dies_and_another_one_takes_its_place(make: Make) -> None:
    lab = make("quiesce/frozen:sleep=4")
    watchdog = child(lab.stack.pid, "stillframe.compute.quiesce.watchdog")
    os.kill(watchdog, signal.SIGKILL)
    found = lab.api.wait_set(ask(lab))
    assert (found["status"], found["consistency"]["level"]) == ("available", "filesystem")
    assert child(lab.stack.pid, "stillframe.compute.quiesce.watchdog") != watchdog


def test_a_worker_and_libvirtd_die_together_while_the_guest_is_frozen(make: Make) -> None:
    lab = make("quiesce/frozen:sleep=30")
    set_id = ask(lab)
    wait_frozen(lab)
    kill_pid_file(lab.stack.state_dir / "libvirt/run/libvirtd.pid")
    lab.stack.kill()
    # Only the watchdog is left: it starts the daemon again and thaws.
    wait_for(lambda: freeze_record.read_all(lab.stack.state_dir / "freeze") == [], "the thaw", 60)
    lab.guest.still_writes()
    lab.stack.start()
    assert lab.api.wait_set(set_id)["status"] == "available"
    lab.check_one_instant(lab.api.set(set_id))

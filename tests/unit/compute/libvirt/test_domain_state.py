"""The table of what may be done in which state: every row, and the page that shows it."""

from pathlib import Path

import libvirt
import pytest

from stillframe.compute.libvirt import domain_state
from stillframe.compute.libvirt.domain_state import CONDITIONS, DECISIONS
from stillframe.errors import Conflict
from tests.unit.builders import SERVER

PAGE = Path(__file__).parents[4] / "docs/reference/server-states.md"
SEEN = [
    ("running", libvirt.VIR_DOMAIN_RUNNING, 0),
    ("running", libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_FROM_SNAPSHOT),
    ("blocked", libvirt.VIR_DOMAIN_BLOCKED, 0),
    ("paused", libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_UNKNOWN),
    ("paused", libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER),
    ("paused", libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION),
    ("paused", libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_WATCHDOG),
    ("paused", libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT),
    ("paused-by-io-error", libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR),
    ("midway", libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SAVE),
    ("midway", libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_DUMP),
    ("midway", libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SHUTTING_DOWN),
    ("midway", libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT),
    ("midway", libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP),
    ("midway", libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY),
    ("midway", libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED),
    ("crashed", libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED),
    ("crashed", libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_CRASHED_PANICKED),
    ("going-down", libvirt.VIR_DOMAIN_SHUTDOWN, libvirt.VIR_DOMAIN_SHUTDOWN_USER),
    ("asleep", libvirt.VIR_DOMAIN_PMSUSPENDED, 0),
    ("unknown", libvirt.VIR_DOMAIN_NOSTATE, 0),
    ("unknown", 99, 0),
]
# By row: what is allowed. Written down once more, so that a slip of the table is seen.
ALLOWED = {
    "running": {"freeze", "set", "merge", "attach", "detach", "stop", "pause", "reboot"},
    "blocked": {"merge", "stop", "pause", "reboot"},
    "paused": {"set", "merge", "attach", "unpause"},
    "paused-by-io-error": {"set", "merge", "attach", "unpause"},
    "midway": set[str](),
    "going-down": {"stop", "pause", "reboot"},
    "stopped": {"set", "attach", "detach", "offline", "start"},
    "saved": {"start", "resume"},
    "saved-elsewhere": set[str](),
    "crashed": {"set", "merge"},
    "crashed-and-gone": {"set", "attach", "detach", "offline", "start"},
    "asleep": {"resume"},
    "unknown": set[str](),
}


@pytest.mark.parametrize(("name", "state", "reason"), SEEN)
def test_every_state_of_a_domain_that_is_there_has_a_row(name: str, state: int, reason: int) -> None:
    assert domain_state.classify(state, reason, True, False, False).name == name


@pytest.mark.parametrize(
    ("name", "state", "saved", "elsewhere"),
    [
        ("stopped", libvirt.VIR_DOMAIN_SHUTOFF, False, False),
        ("saved", libvirt.VIR_DOMAIN_SHUTOFF, True, False),
        ("saved", libvirt.VIR_DOMAIN_CRASHED, True, False),
        ("saved-elsewhere", libvirt.VIR_DOMAIN_SHUTOFF, False, True),
        ("crashed-and-gone", libvirt.VIR_DOMAIN_CRASHED, False, False),
        ("unknown", libvirt.VIR_DOMAIN_NOSTATE, False, False),
    ],
)
def test_every_state_of_a_domain_without_qemu_has_a_row(name: str, state: int, saved: bool, elsewhere: bool) -> None:
    assert domain_state.classify(state, 0, False, saved, elsewhere).name == name


def test_the_numbers_are_libvirts() -> None:
    assert domain_state.SHUTOFF_SAVED == libvirt.VIR_DOMAIN_SHUTOFF_SAVED
    assert domain_state.SHUTOFF == libvirt.VIR_DOMAIN_SHUTOFF


@pytest.mark.parametrize("name", CONDITIONS)
@pytest.mark.parametrize("decision", DECISIONS)
def test_each_row_allows_what_it_says_and_refuses_the_rest_with_a_way_out(name: str, decision: str) -> None:
    row = CONDITIONS[name]
    if decision in ALLOWED[name]:
        assert row.why_not(SERVER, decision) is None
        row.refuse(SERVER, decision)
        return
    with pytest.raises(Conflict, match=f"server {SERVER} is ") as refused:
        row.refuse(SERVER, decision)
    assert row.way in refused.value.message
    assert refused.value.details == {"server_state": name}


def test_only_who_has_no_qemu_and_no_saved_memory_is_changed_offline() -> None:
    assert {name for name, row in CONDITIONS.items() if row.allows("offline")} == {"stopped", "crashed-and-gone"}


def test_no_way_out_throws_a_memory_away_without_saying_so() -> None:
    for row in CONDITIONS.values():
        if "managedsave-remove" in row.way or "virsh start" in row.way:
            assert "lost, as in a power cut" in row.way


def test_the_page_shows_the_table() -> None:
    page = PAGE.read_text()
    words = [each for each in DECISIONS if each not in ("stop", "pause", "unpause", "reboot", "start", "resume")]
    for name, row in CONDITIONS.items():
        cells = " | ".join("yes" if row.allows(each) else "no" for each in words)
        powers = (
            ", ".join(each for each in ("start", "resume", "stop", "pause", "unpause", "reboot") if row.allows(each)) or "-"
        )
        line = f"| {name} | {row.seen} | {row.status}, {row.power_state} | {cells} | {powers} |"
        assert line in page, line
        assert f"| {name} | {row.way} |" in page, name

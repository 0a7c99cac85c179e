"""The freeze hooks of deploy/hooks inside a guest, as the how-to installs them: its agent calls them while databases work."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from stillframe.compute.quiesce import record as freeze_record
from stillframe.db import operations
from stillframe.db.engine import Database
from stillframe.errors import AgentFailed
from tests.support.guest import databases
from tests.support.guest.domain import Guest, GuestOptions
from tests.support.lab import CACHE, Lab, open_lab
from tests.support.stack import wait_for

NAMES = ("postgresql", "mariadb")
SCRIPT = "/usr/bin/dash /usr/share/databases.sh"
HOOKS = "/etc/qemu/fsfreeze-hook.d"
ROWS = {
    "postgresql": "setpriv --reuid postgres --regid postgres --init-groups psql -XAtq -d postgres -c 'SELECT n FROM {}'",
    "mariadb": "mariadb -N d -e 'SELECT n FROM {}'",
}


class Acknowledged:
    """Which transactions the guest's databases have acknowledged by when: an acknowledgement comes over the console, and is
    older than the moment (seconds since the epoch, this host's clock) that is written down for it."""

    def __init__(self, guest: Guest) -> None:
        self._console = guest.console
        self._moments: dict[str, dict[int, float]] = defaultdict(dict)
        self._enough = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with self._console.open() as console:
            rest = ""
            while not self._enough.wait(0.01):
                *lines, rest = (rest + console.read()).split("\n")
                now = time.time()
                for words in map(str.split, lines):
                    if words[:1] == ["acknowledged"] and len(words) == 3:
                        self._moments[words[1]][int(words[2])] = now

    def before(self, moment: float) -> dict[str, set[int]]:
        return {name: {n for n, when in dict(self._moments[name]).items() if when <= moment} for name in NAMES}

    def more(self) -> None:
        """Waits until both databases have acknowledged some more."""
        seen = {name: len(self._moments[name]) for name in NAMES}
        wait_for(lambda: all(len(self._moments[name]) > seen[name] + 5 for name in NAMES), "the databases' work", 90)

    def stop(self) -> None:
        self._enough.set()
        self._reader.join()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A guest with both databases on two of its three volumes, and another one without volumes, for what is restored."""
    made = open_lab(tmp_path_factory.mktemp("databases"), "[compute]\nfreeze_deadline_seconds = 5\n")
    try:
        tools = databases.disk(databases.build(CACHE))
        made.add_guest(3, GuestOptions(raw="vdb:vdc:vdd", extra_disks=tools))
        made.add_guest(0, GuestOptions(name="restored", raw="vda:vdb:vdc", extra_disks=tools))
        for guest, letter in zip(made.guests, "da", strict=True):
            guest.execute(f"mkdir /usr && mount -t ext4 -o ro /dev/vd{letter} /usr && {SCRIPT} system")
        made.guest.execute(f"{SCRIPT} create /dev/vdb /dev/vdc >/tmp/create.log 2>&1")
        former = agents_pid(made.guest)
        made.guest.execute(f"{SCRIPT} agent")
        wait_for(lambda: agents_pid(made.guest) not in ("", former), "the agent with hooks")
        yield made
    finally:
        made.clear()


@pytest.fixture(scope="module")
def acknowledged(lab: Lab) -> Iterator[Acknowledged]:
    """The load, which goes on until the module's last test."""
    lab.guest.execute(f"{SCRIPT} load >/dev/null 2>&1")
    reader = Acknowledged(lab.guest)
    try:
        reader.more()
        yield reader
    finally:
        reader.stop()


def agents_pid(guest: Guest) -> str:
    try:
        return guest.execute("pidof qemu-ga || true").strip()
    except AgentFailed:  # it ends at this moment
        return ""


def restored(lab: Lab, volume_id: str, snapshot_id: str) -> str:
    """Makes a volume from a snapshot and plugs it into the other guest."""
    size = lab.api.volume(volume_id)["size"]
    made = lab.api.ok("volume", "POST", "/volumes", {"volume": {"snapshot_id": snapshot_id, "size": size}})["volume"]["id"]
    wait_for(lambda: lab.api.volume(made)["status"] == "available", "the volume", 60)
    lab.api.attach(lab.guests[1].id, made)
    return str(made)


def rows(guest: Guest, name: str, table: str) -> set[int]:
    return set(map(int, guest.execute(f"export PATH=/usr/bin:/bin; {ROWS[name].format(table)}").split()))


def hook_log(lab: Lab) -> list[str]:
    """What the wrapper wrote down since it was asked last: ``NAME ACTION: exit code N``."""
    log = "/var/log/qga-fsfreeze-hook.log"
    lines = lab.guest.execute(f"cat {log}; : >{log}").splitlines()
    return [line.rpartition("/")[2] for line in lines if f" {HOOKS}/" in line and "exit code" in line]


def held(lab: Lab) -> tuple[Any, Any]:
    """What a set that fails leaves as it was."""
    return lab.api.ok("volume", "GET", "/snapshots"), lab.api.ok("volume", "GET", "/volumes")


def still_works(lab: Lab, acknowledged: Acknowledged) -> None:
    """The guest is thawed, the databases acknowledge, and the watchdog has nothing left to do."""
    wait_for(lambda: freeze_record.read_all(lab.stack.state_dir / "freeze") == [], "the end of the freeze", 60)
    acknowledged.more()
    assert not lab.guest.frozen()


def test_a_set_holds_every_transaction_acknowledged_before_the_switch_and_no_partial_one(
    lab: Lab, acknowledged: Acknowledged
) -> None:
    found = lab.api.take(lab.guest.id, quiesce="required")
    assert (found["status"], found["fault"]) == ("available", None)
    assert found["consistency"]["level"] == "filesystem"
    assert hook_log(lab) == [f"{name} {what}: exit code 0" for what in ("freeze", "thaw") for name in sorted(NAMES)]
    # By the account of the database alone: for root there is no way in.
    assert "checkpoint starting: immediate force wait" in lab.guest.execute("cat /tmp/postgresql.log")
    assert 'role "root" does not exist' in lab.guest.execute("/usr/bin/psql -d postgres -c 'SELECT 1' 2>&1 || true")
    still_works(lab, acknowledged)
    for entry in found["volumes"]:
        if entry["volume_id"] in lab.volumes[1:]:
            restored(lab, entry["volume_id"], entry["snapshot_id"])
    guest = lab.guests[1]
    guest.execute(f"{SCRIPT} open /dev/vdb /dev/vdc && {SCRIPT} start >/tmp/start.log 2>&1")
    assert "automatic recovery in progress" in guest.execute("cat /tmp/postgresql.log")
    began = datetime.fromisoformat(found["switched_at"]).replace(tzinfo=UTC).timestamp()
    promised, later = acknowledged.before(began), acknowledged.before(time.time())
    for name in NAMES:
        whole = rows(guest, name, "a")
        assert rows(guest, name, "b") == whole, name
        assert promised[name] and promised[name] <= whole, (name, sorted(promised[name] - whole))
        assert whole < later[name], "the snapshot is older than what came after it"
    lab.check_sound()


def test_a_hook_that_takes_too_long_ends_the_set_and_not_the_guest(lab: Lab, acknowledged: Acknowledged) -> None:
    lab.guest.execute(f"printf '#!/bin/sh\\n[ $1 = thaw ] || sleep 10\\n' >{HOOKS}/slow && chmod +x {HOOKS}/slow")
    before = held(lab)
    try:
        found = lab.api.take(lab.guest.id, quiesce="required", hook_timeout=2)
        assert found["status"] == "error"
        assert "the guest's freeze hooks did not end within their timeout of 2 s (hook_timeout)" in found["fault"]
        assert held(lab) == before
        wait_for(lab.guest.agent_answers, "the hook's end", 60)
        still_works(lab, acknowledged)
    finally:
        lab.guest.execute(f"rm {HOOKS}/slow")
    assert "slow freeze: exit code 0" in hook_log(lab)
    lab.check_sound()


def test_a_hook_that_fails_is_told_with_its_own_code(lab: Lab, acknowledged: Acknowledged) -> None:
    lab.guest.execute(f"printf '#!/bin/sh\\n[ $1 = thaw ] || exit 3\\n' >{HOOKS}/refuses && chmod +x {HOOKS}/refuses")
    before = held(lab)
    try:
        found = lab.api.take(lab.guest.id, quiesce="required")
    finally:
        lab.guest.execute(f"rm {HOOKS}/refuses")
    assert found["status"] == "error"
    assert "fsfreeze hook has failed with status 3" in found["fault"]
    assert code_of(lab, found["id"]) == "hook_failed"
    assert held(lab) == before
    called = hook_log(lab)
    assert called[:3] == ["mariadb freeze: exit code 0", "postgresql freeze: exit code 0", "refuses freeze: exit code 3"]
    assert "mariadb thaw: exit code 0" in called, "the lock is given up"
    still_works(lab, acknowledged)
    lab.check_sound()


def test_a_database_that_does_not_answer_ends_the_set_within_the_hooks_own_time(lab: Lab, acknowledged: Acknowledged) -> None:
    settings = "/etc/default/stillframe-postgresql"
    lab.guest.execute(f"mkdir -p /etc/default && echo HOOK_TIMEOUT=2 >{settings}")
    lab.guest.execute("kill -STOP $(head -n 1 /data/postgresql/postmaster.pid)")  # takes no connection any more
    before = held(lab)
    try:
        found = lab.api.take(lab.guest.id, quiesce="required")
    finally:
        lab.guest.execute(f"kill -CONT $(head -n 1 /data/postgresql/postmaster.pid); rm {settings}")
    assert found["status"] == "error"
    assert "fsfreeze hook has failed with status 124" in found["fault"]
    assert held(lab) == before
    assert "postgresql freeze: exit code 124" in hook_log(lab)
    still_works(lab, acknowledged)
    lab.check_sound()


def code_of(lab: Lab, set_id: str) -> str:
    """The code of the error with which the operation of a set ended, as the journal has it."""
    database = Database(f"sqlite:///{lab.stack.state_dir}/stillframe.sqlite")
    with database.read() as connection:
        found = next(row for row in operations.newest(connection, 20) if row["intent"].get("set_id") == set_id)
    database.close()
    return str((found["fault"] or {})["code"])

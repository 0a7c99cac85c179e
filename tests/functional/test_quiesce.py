"""Every way a guest agent can fail, and what is claimed afterwards. The guest is never left frozen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from stillframe.chain.names import overlay_name
from stillframe.compute.quiesce import record as freeze_record
from stillframe.host import files, hypervisor
from tests.support import image_lock
from tests.support.guest.domain import GuestOptions
from tests.support.lab import Lab, open_lab
from tests.support.stack import wait_for

SHORT = "[compute]\nfreeze_deadline_seconds = 3\nagent_timeout_seconds = 2\n"
KNOB = "/sys/kernel/rcu_expedited"
AGENT = "qemu-ga -m virtio-serial -p /dev/vport0p1 -t /run -f /run/qemu-ga.pid -d"
Make = Callable[..., Lab]
Use = Callable[..., Lab]


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = open_lab(tmp_path_factory.mktemp("quiesce"), SHORT)
    try:
        made.add_guest(2)
        yield made
    finally:
        made.clear()


@pytest.fixture
def use(usual: Lab) -> Use:
    """The guest that most tests share, under services that have just been started; its snapshots become more and more."""

    def one(failpoint: str = "", more: str = "") -> Lab:
        usual.stack.kill()
        (usual.directory / "stillframe.conf").write_text(SHORT + more)
        usual.stack.start(failpoint)
        return usual

    return one


@pytest.fixture
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    labs: list[Lab] = []

    def one(**options: object) -> Lab:
        made = open_lab(tmp_path_factory.mktemp("quiesce"), SHORT)
        labs.append(made)
        made.add_guest(2, GuestOptions(**options))  # type: ignore[arg-type]
        return made

    yield one
    for made in labs:
        made.clear()


def refused(lab: Lab) -> str:
    """Asks for a required quiesce, expects 409, and that nothing changed; returns the message."""
    path = f"/servers/{lab.guest.id}/os-assisted-snapshots"

    def everything() -> object:
        sets = lab.api.ok("compute", "GET", path)["assisted_snapshots"]
        return sets, snapshots(lab), lab.stack.share.stat().st_mtime_ns, lab.guest.domain.XMLDesc(0)

    before = everything()
    answer = lab.api.send("compute", "POST", path, {"assisted_snapshot": {"quiesce": "required"}})
    assert answer.status_code == 409, answer.text
    assert everything() == before
    return str(answer.json()["conflictingRequest"]["message"])


def snapshots(lab: Lab) -> list[str]:
    return [each["id"] for each in lab.api.ok("volume", "GET", "/snapshots")["snapshots"]]


def ask(lab: Lab, policy: str = "required") -> str:
    path = f"/servers/{lab.guest.id}/os-assisted-snapshots"
    body = {"assisted_snapshot": {"quiesce": policy}}
    return str(lab.api.ok("compute", "POST", path, body)["assisted_snapshot"]["id"])


def no_freeze_remains(lab: Lab) -> None:
    wait_for(lambda: freeze_record.read_all(lab.stack.state_dir / "freeze") == [], "the end of the freeze", 60)
    lab.guest.still_writes()


def knob(lab: Lab) -> str:
    return lab.guest.execute(f"cat {KNOB}").strip()


def test_without_an_agent_channel(make: Make) -> None:
    lab = make(channel=False)
    assert "no guest agent channel" in refused(lab)
    found = lab.api.take(lab.guest.id, quiesce="preferred")
    assert (found["status"], found["consistency"]["level"]) == ("available", "crash")
    assert "no guest agent channel" in found["consistency"]["degraded_reason"]
    lab.check_one_instant(found)
    lab.check_sound()


def test_with_a_channel_but_no_agent(make: Make) -> None:
    lab = make(agent=False)
    assert "does not answer" in refused(lab)
    found = lab.api.take(lab.guest.id)
    assert found["consistency"]["level"] == "crash"
    lab.check_one_instant(found)


def test_with_an_agent_that_hangs(use: Use) -> None:
    lab = use()
    lab.guest.execute("(sleep 1; kill -STOP $(pidof qemu-ga); sleep 45; kill -CONT $(pidof qemu-ga)) >/dev/null 2>&1 &")
    wait_for(lambda: not lab.guest.agent_answers(), "the agent's silence")
    assert "does not answer" in refused(lab)
    found = lab.api.take(lab.guest.id)
    assert found["consistency"]["level"] == "crash"
    assert "does not answer" in found["consistency"]["degraded_reason"]
    lab.check_one_instant(found)
    wait_for(lab.guest.agent_answers, "the agent", 60)
    assert not lab.guest.frozen()


@pytest.mark.parametrize("policy", ["preferred", "required"])
def test_a_freeze_that_arrives_late_is_taken_back(use: Use, policy: str) -> None:
    # Not expedited: that would ask the stopped agent first, and the deadline would pass before the freeze is tried.
    lab = use("quiesce/armed:sleep=5", more="expedite_freeze = false\nfreeze_deadline_seconds = 9\n")
    before, line = snapshots(lab), "held at quiesce/armed"
    seen = lab.stack.log.read_text().count(line)
    set_id = ask(lab, policy)
    # Clocks of guest and host say nothing on a busy machine.
    wait_for(lambda: lab.stack.log.read_text().count(line) > seen, "the place", 60)
    # The agent is stopped between the preflight and the freeze, and goes on long after the freeze has timed out.
    stop = "(sleep 1; kill -STOP $(pidof qemu-ga); sleep 20; kill -CONT $(pidof qemu-ga)) >/dev/null 2>&1 &"
    lab.guest.execute(stop, wait=False)
    found = lab.api.wait_set(set_id)
    if policy == "required":
        assert found["status"] == "error"
        assert "could not be quiesced" in found["fault"]
        assert snapshots(lab) == before
    else:
        assert (found["status"], found["consistency"]["level"]) == ("available", "crash")
        assert "freeze failed" in found["consistency"]["degraded_reason"]
        lab.check_one_instant(found)
    wait_for(lab.guest.agent_answers, "the agent", 60)
    no_freeze_remains(lab)
    assert not lab.guest.frozen()
    lab.check_sound()


def test_an_agent_that_dies_while_frozen(use: Use) -> None:
    lab = use("quiesce/frozen:sleep=2")
    # The agent writes this down just before it freezes (qga/commands-posix.c, qemu 7.2); when it waits again, it has answered.
    frozen = "until [ -e /run/qga.state.isfrozen ] && grep -q poll /proc/$(pidof qemu-ga)/wchan; do usleep 50000; done"
    lab.guest.execute(f"({frozen}; killall -9 qemu-ga; sleep 9; rm -f /run/qemu-ga.pid; {AGENT}) >/dev/null 2>&1 &")
    found = lab.api.take(lab.guest.id, quiesce="required")
    assert found["status"] == "error"
    assert "did not hold" in found["fault"]
    assert found["consistency"]["level"] == "crash"
    assert all(entry["status"] == "available" for entry in found["volumes"])
    assert lab.api.snapshot(found["volumes"][0]["snapshot_id"])["consistency"]["level"] == "crash"
    lab.check_one_instant(found)
    no_freeze_remains(lab)
    assert not lab.guest.frozen()
    assert knob(lab) == "0"
    lab.check_sound()


def test_the_watchdog_thaws_at_the_deadline_and_the_snapshot_says_so(use: Use) -> None:
    lab = use("quiesce/frozen:sleep=6")
    before = lab.guest.beats()
    found = lab.api.take(lab.guest.id, quiesce="preferred")
    assert (found["status"], found["consistency"]["level"]) == ("available", "crash")
    assert "thawed before the switch" in found["consistency"]["degraded_reason"]
    slowest = max(beat.slowest_ms for beat in lab.guest.beats()[len(before) :])
    # It was frozen, and by its own words thawed before the switch, which came after six seconds.
    assert (
        slowest > 1000
    )  # it was frozen; that the watchdog thawed it is in the reason, the switch itself came after six seconds
    assert knob(lab) == "0"
    lab.check_one_instant(found)
    lab.check_sound()


@contextmanager
def backup_job(lab: Lab, name: str) -> Iterator[None]:
    """Another program's job on the domain: a backup in pull mode, which goes on until somebody ends it."""
    place = lab.directory / name
    place.mkdir()
    lab.guest.domain.backupBegin(
        f"<domainbackup mode='pull'><server transport='unix' socket='{place}/nbd'/><disks><disk name='vda' backup='yes'"
        f" type='file'><scratch file='{place}/scratch'/></disk><disk name='vdb' backup='no'/></disks></domainbackup>",
        None,
        0,
    )
    try:
        yield
    finally:
        lab.guest.domain.abortJob()


def test_another_programs_job_is_seen_before_anything_is_frozen(use: Use) -> None:
    lab = use("quiesce/armed")  # where somebody is about to freeze, the services die
    before = snapshots(lab)
    path = f"/servers/{lab.guest.id}/os-assisted-snapshots"
    sets = lab.api.ok("compute", "GET", path)
    with backup_job(lab, "seen"):
        for policy in ("required", "preferred", "never"):
            answer = lab.api.send("compute", "POST", path, {"assisted_snapshot": {"quiesce": policy}})
            assert answer.status_code == 409, answer.text
            assert "a backup job on server" in answer.text
        assert (snapshots(lab), lab.api.ok("compute", "GET", path)) == (before, sets)
        short = lab.api.take(lab.guest.id, quiesce="required", wait=3)
        assert short["status"] == "error"
        assert "a backup job on server" in short["fault"]
        assert snapshots(lab) == before
        body = {"assisted_snapshot": {"quiesce": "never", "wait": 600}}
        patient = str(lab.api.ok("compute", "POST", path, body)["assisted_snapshot"]["id"])
        wait_for(lambda: "it waits" in (lab.api.set(patient)["fault"] or ""), "the set to say what it waits for")
        assert lab.api.set(patient)["status"] == "creating"
        assert snapshots(lab) == before
    found = lab.api.wait_set(patient)
    assert (found["status"], found["fault"]) == ("available", None)
    lab.check_one_instant(found)
    lab.check_sound()


@pytest.mark.parametrize("policy", ["preferred", "required"])
def test_a_job_that_comes_after_the_freeze_does_not_hold_the_guest(use: Use, policy: str) -> None:
    lab = use("quiesce/frozen:sleep=4", more="freeze_deadline_seconds = 20\n")
    log = lab.stack.log
    seen = log.read_text().count("held at quiesce/frozen")
    set_id = ask(lab, policy)
    wait_for(lambda: log.read_text().count("held at quiesce/frozen") > seen, "the place", 60)
    with backup_job(lab, policy):
        # Thawed long before the deadline, though the switch cannot begin.
        no_freeze_remains(lab)
        assert not lab.guest.frozen()
        assert lab.api.set(set_id)["status"] == "creating"
    found = lab.api.wait_set(set_id)
    assert found["status"] == ("error" if policy == "required" else "available"), found
    assert found["consistency"]["level"] == "crash"
    assert "another job held libvirt's lock" in found["consistency"]["degraded_reason"]
    lab.check_one_instant(found)
    lab.guest.still_writes()
    lab.check_sound()


def test_a_switch_that_libvirt_refuses_leaves_the_guest_thawed_and_nothing_behind(use: Use) -> None:
    lab = use("assisted_snapshot/overlays/record:sleep=3")
    share, before = lab.stack.share, set(files.listing(lab.stack.share))
    path = f"/servers/{lab.guest.id}/os-assisted-snapshots"
    made = lab.api.ok("compute", "POST", path, {"assisted_snapshot": {"quiesce": "required"}})["assisted_snapshot"]
    refusal = f"operation {made['id']}, step switch: libvirt refused a call"
    overlay = overlay_name(made["volumes"][0]["volume_id"], made["volumes"][0]["snapshot_id"])
    wait_for((share / overlay).exists, "the overlay")
    with image_lock.held(share / overlay):
        wait_for(lambda: refusal in lab.stack.log.read_text(), "the refusal")
        waits = f"operation {made['id']}: step overlays cannot be undone yet: {overlay} is open in a program"
        wait_for(lambda: waits in lab.stack.log.read_text(), "the removal to wait")
    found = lab.api.wait_set(made["id"])
    assert found["status"] == "error"
    assert "libvirt refused a call" in found["fault"] and 'Failed to get "write" lock' in found["fault"]
    assert str(lab.stack.state_dir) not in found["fault"]
    for entry in found["volumes"]:
        assert entry["status"] == "error"
        assert lab.api.send("volume", "GET", f"/snapshots/{entry['snapshot_id']}").status_code == 404
        assert lab.api.volume(entry["volume_id"])["status"] == "in-use"
    wait_for(lambda: set(files.listing(share)) == before, "the share to be as before")
    assert hypervisor.agent_command(lab.guest.domain, "guest-fsfreeze-status", None, 10) == "thawed"
    assert freeze_record.read_all(lab.stack.state_dir / "freeze") == []
    # It is refused for good: the guest was frozen once, not until somebody gives up.
    assert lab.stack.log.read_text().count(refusal) == 1
    lab.check_one_instant(lab.api.take(lab.guest.id, quiesce="required"))


@pytest.mark.parametrize(
    "place", ["quiesce/armed", "quiesce/expedited", "quiesce/frozen", "quiesce/switched", "quiesce/thawed"]
)
def test_the_watchdog_thaws_when_the_worker_dies(use: Use, place: str) -> None:
    lab = use(place)
    set_id = ask(lab)
    lab.stack.wait_killed()
    no_freeze_remains(lab)
    assert not lab.guest.frozen()
    assert knob(lab) == "0"
    lab.stack.start()
    found = lab.api.wait_set(set_id)
    if place in ("quiesce/armed", "quiesce/expedited", "quiesce/frozen"):
        # Nothing was switched: the operation is taken up again, freezes once more and ends well.
        assert (found["status"], found["consistency"]["level"]) == ("available", "filesystem")
    else:
        assert (found["status"], found["consistency"]["level"]) == ("error", "crash")
        assert "could confirm" in found["consistency"]["degraded_reason"]
    lab.check_one_instant(found)
    lab.guest.still_writes()
    assert knob(lab) == "0"
    lab.check_sound()


def test_the_guest_is_expedited_for_the_freeze_alone(use: Use) -> None:
    lab = use("quiesce/expedited:sleep=2")
    set_id = ask(lab)
    wait_for(lambda: knob(lab) == "1", "the expediting")
    found = lab.api.wait_set(set_id)
    assert (found["consistency"]["level"], found["consistency"]["expedited"]) == ("filesystem", True)
    assert knob(lab) == "0"
    lab.check_sound()


def test_a_guest_that_is_expedited_by_itself_stays_so(use: Use) -> None:
    lab = use()
    lab.guest.execute(f"echo 1 >{KNOB}")
    found = lab.api.take(lab.guest.id, quiesce="required")
    assert (found["consistency"]["level"], found["consistency"]["expedited"]) == ("filesystem", False)
    assert knob(lab) == "1"
    lab.guest.execute(f"echo 0 >{KNOB}")
    lab.check_sound()


def test_an_agent_that_may_open_no_files_freezes_all_the_same(use: Use) -> None:
    lab = use()
    another_agent(lab, f"{AGENT} -b guest-file-open,guest-file-write")
    try:
        found = lab.api.take(lab.guest.id, quiesce="required")
    finally:
        another_agent(lab, AGENT)
    assert (found["consistency"]["level"], found["consistency"]["expedited"]) == ("filesystem", False)
    lab.check_one_instant(found)
    lab.check_sound()


def another_agent(lab: Lab, command: str) -> None:
    lab.guest.execute(f"(sleep 0.5; killall qemu-ga; sleep 4; {command}) >/dev/null 2>&1 &")
    wait_for(lambda: not lab.guest.agent_answers(), "the agent's end")
    wait_for(lab.guest.agent_answers, "the agent")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A guest with an ext4 and a disk that no filesystem is on until a test makes one."""
    made = open_lab(tmp_path_factory.mktemp("quiesce"), SHORT)
    try:
        made.add_guest(2, GuestOptions(raw="vdb"))
        yield made
    finally:
        made.clear()


def test_a_disk_without_a_filesystem_is_never_called_filesystem_consistent(plain: Lab) -> None:
    lab = plain
    found = lab.api.take(lab.guest.id, quiesce="required")
    assert (found["status"], found["consistency"]["level"], found["consistency"]["filesystems"]) == (
        "available",
        "filesystem",
        1,
    )
    by_volume = {entry["volume_id"]: lab.api.snapshot(entry["snapshot_id"])["consistency"] for entry in found["volumes"]}
    assert by_volume[lab.volumes[0]]["level"] == "filesystem"
    assert by_volume[lab.volumes[1]]["level"] == "crash"
    assert [entry["consistency"] for entry in found["volumes"]] == ["filesystem", "crash"]
    assert "no mounted filesystem" in by_volume[lab.volumes[1]]["degraded_reason"]
    path = f"/servers/{lab.guest.id}/os-assisted-snapshots"
    only = {"assisted_snapshot": {"quiesce": "required", "volumes": [lab.volumes[1]]}}
    assert lab.api.send("compute", "POST", path, only).status_code == 409
    alone = lab.api.take(lab.guest.id, volumes=[lab.volumes[1]])
    assert alone["consistency"]["level"] == "crash"
    lab.check_sound()


VFAT = "the vfat filesystem /x/efi"


def of_volumes(lab: Lab, found: dict[str, Any]) -> list[dict[str, Any]]:
    """What each snapshot of a set says, in the order of the disks."""
    by_volume = {each["volume_id"]: lab.api.snapshot(each["snapshot_id"])["consistency"] for each in found["volumes"]}
    return [by_volume[volume_id] for volume_id in lab.volumes if volume_id in by_volume]


def test_what_cannot_be_frozen_is_known_beforehand_named_and_allowed_by_choice(plain: Lab) -> None:
    lab, path = plain, f"/servers/{plain.guest.id}/os-assisted-snapshots"
    modules = "nls_cp437 nls_ascii nls_iso8859-1 fat vfat loop"
    lab.guest.execute(f"for each in {modules}; do insmod /modules/$each.ko; done; mkdir -p /x/efi /x/loop")
    lab.guest.execute("mkdosfs /dev/vdb >/dev/null && mount -t vfat /dev/vdb /x/efi && echo kept >/x/efi/file")
    for volumes in (lab.volumes, lab.volumes[1:]):
        before = snapshots(lab)
        body = {"assisted_snapshot": {"quiesce": "required", "volumes": volumes}}
        answer = lab.api.send("compute", "POST", path, body)
        assert answer.status_code == 409, answer.text
        told = answer.json()["conflictingRequest"]["message"]
        assert f"{VFAT} on vdb cannot be frozen" in told and "allow_unfreezable" in told
        assert snapshots(lab) == before
    other = lab.api.take(lab.guest.id, quiesce="required", volumes=lab.volumes[:1])  # the other disk is no worse for it
    assert (other["status"], other["consistency"]["level"]) == ("available", "filesystem")
    for asked in (["vfat"], ["/x/efi"]):
        found = lab.api.take(lab.guest.id, quiesce="required", allow_unfreezable=asked)
        assert (found["status"], found["fault"], found["consistency"]["level"]) == ("available", None, "crash")
        assert f"{VFAT} on vdb cannot be frozen" in found["consistency"]["degraded_reason"]
        whole, vfat = of_volumes(lab, found)
        assert (whole["level"], whole["frozen"], whole["not_frozen"]) == ("filesystem", ["ext4 filesystem /mnt/vda"], [])
        assert (vfat["level"], vfat["frozen"], vfat["not_frozen"]) == ("crash", [], ["vfat filesystem /x/efi"])
        assert "vfat filesystem /x/efi" in vfat["degraded_reason"]
        assert lab.snapshot_data(lab.volumes[0], found["volumes"][0]["snapshot_id"]).clean
    lab.check_sound()


def test_a_servers_settings_allow_it_and_a_loop_mount_makes_no_label_better(plain: Lab) -> None:
    lab, path = plain, f"/servers/{plain.guest.id}/os-assisted-snapshot-settings"
    make = "dd if=/dev/zero of=/tmp/img bs=1M count=8 2>/dev/null && losetup /dev/loop0 /tmp/img && mke2fs -q /dev/loop0"
    lab.guest.execute(f"{make} && mount -o ro /dev/loop0 /x/loop")
    assert f"{VFAT} on vdb" in refused(lab)
    lab.api.ok("compute", "PUT", path, {"assisted_snapshot_settings": {"allow_unfreezable": ["vfat"]}})
    both = lab.api.take(lab.guest.id, quiesce="required")
    assert both["status"] == "available"
    assert [each["level"] for each in of_volumes(lab, both)] == ["filesystem", "crash"]
    alone = lab.api.take(lab.guest.id, volumes=lab.volumes[1:])
    assert (alone["status"], alone["consistency"]["level"]) == ("available", "crash")
    assert "vfat filesystem /x/efi" in alone["consistency"]["degraded_reason"]
    assert of_volumes(lab, alone)[0]["level"] == "crash"
    lab.api.ok("compute", "PUT", path, {"assisted_snapshot_settings": {"allow_unfreezable": None}})
    lab.guest.execute("umount /x/loop; losetup -d /dev/loop0")
    lab.check_sound()


def test_a_failed_thaw_hook_is_reported_with_its_code(use: Use) -> None:
    lab = use()
    lab.guest.execute("printf '#!/bin/sh\n[ $1 = freeze ] || exit 3\n' >/tmp/hook && chmod +x /tmp/hook")
    another_agent(lab, f"{AGENT} -F/tmp/hook")
    try:
        found = lab.api.take(lab.guest.id, quiesce="required")
    finally:
        another_agent(lab, AGENT)
    told = f"{found['fault']} {found['consistency']}"
    assert "hook has failed with status 3" in told
    assert "did not answer" not in told
    lab.guest.still_writes()
    lab.check_sound()


def test_a_failed_freeze_hook_undoes_everything_and_is_reported_with_its_code(use: Use) -> None:
    lab = use()
    lab.guest.execute("printf '#!/bin/sh\n[ $1 = thaw ] || exit 4\n' >/tmp/hook && chmod +x /tmp/hook")
    another_agent(lab, f"{AGENT} -F/tmp/hook")
    before = snapshots(lab)
    try:
        found = lab.api.take(lab.guest.id, quiesce="required")
    finally:
        another_agent(lab, AGENT)
    assert (found["status"], snapshots(lab)) == ("error", before)
    assert "hook has failed with status 4" in found["fault"]
    lab.guest.still_writes()
    lab.check_sound()


def test_the_time_of_a_slow_hook_is_not_counted_as_freeze(use: Use) -> None:
    lab = use()
    lab.guest.execute("printf '#!/bin/sh\\n[ $1 = thaw ] && sleep 2 || sleep 6\\n' >/tmp/hook && chmod +x /tmp/hook")
    another_agent(lab, f"{AGENT} -F/tmp/hook")
    before = len(lab.guest.beats())
    try:
        for _ in range(3):  # a guest that hardly gets a processor may miss the moment in which the agent's file is there
            found = lab.api.take(lab.guest.id, quiesce="required", hook_timeout=20)
            if found["status"] != "available" or found["consistency"]["timings"]["hooks_before_ms"] is not None:
                break
    finally:
        another_agent(lab, AGENT)
    outcome = found["consistency"]
    assert (found["status"], outcome["level"]) == ("available", "filesystem"), found
    timings = outcome["timings"]
    assert timings["hooks_before_ms"] > 5500  # the hook sleeps for 6 s, by the guest's clock
    assert timings["hooks_after_ms"] > 1500
    assert outcome["frozen_ms"] < timings["hooks_before_ms"]
    lab.guest.still_writes()
    felt = max(beat.slowest_ms for beat in lab.guest.beats()[before:])
    assert felt < timings["hooks_before_ms"], "writers went on while the hook ran"
    lab.check_one_instant(found)
    lab.check_sound()

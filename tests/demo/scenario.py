"""What the demo shows, step by step."""

import json
import time
from typing import Any

from rich.table import Table

from stillframe.chain.names import overlay_name
from stillframe.host import qcow2
from tests.demo import deletions
from tests.demo.stage import Stage
from tests.support.content import DiskContent, of_one_instant, read_disk
from tests.support.guest.domain import Guest
from tests.support.site import journal_is_empty
from tests.support.stack import wait_for

DISKS = 4  # the last one is given out by iSCSI, the others are QCOW2 files


def tell(stage: Stage) -> int:
    """Plays every act; returns the exit code."""
    began = time.monotonic()
    stage.console.rule("Stillframe: all volumes of a running server, at one instant")
    guest, volumes = _prepare(stage)
    found = _snapshot(stage, guest)
    if found is not None:
        _prove_content(stage, guest, found)
        _draw_chains(stage)
        deletions.tell(stage, guest, volumes, found)
    _failed_try(stage, guest, volumes)
    if found is not None:
        deletions.tell_the_end(stage, guest, volumes)
    return _summary(stage, time.monotonic() - began)


def _prepare(stage: Stage) -> tuple[Guest, list[str]]:
    with stage.act("starting stillframe serve with a private libvirt daemon"):
        stage.open()
    with stage.act("building the test guest (kernel, guest agent, a program that writes a counter)"):
        guest = stage.make_guest()
    with stage.act(
        f"creating {DISKS - 1} QCOW2 volumes and an iSCSI one, of 1 GiB each, and attaching them through the compute API"
    ):
        volumes = [stage.api.create_volume(f"data-{number}") for number in range(1, DISKS)]
        stage.fast = stage.api.create_volume(f"data-{DISKS}", volume_type="fast")
        volumes.append(stage.fast)
        for volume in volumes:
            stage.api.attach(guest.id, volume)
    with stage.act("booting the guest through the compute API; it writes one counter to all volumes with O_DSYNC"):
        wait_for(lambda: journal_is_empty(stage.stack), "the end of the last attachment")  # a moment after the volume's status
        stage.api.ok("compute", "POST", f"/servers/{guest.id}/action", {"os-start": None})
        guest.wait_ready()
        guest.still_writes()
    return guest, volumes


def _snapshot(stage: Stage, guest: Guest) -> dict[str, Any] | None:
    seen = len(guest.beats())
    done = stage.command(
        "assisted-snapshot", "create", "--quiesce", "required", "--name", "first", "--wait", "-f", "json", "demo"
    )
    if done.returncode != 0:
        stage.prove(False, f"the assisted snapshot was taken: {done.stderr.strip()}")
        return None
    shown = json.loads(done.stdout)
    table = Table(show_header=False)
    for key in ("id", "status", "consistency", "frozen_ms", "filesystems", "flushed"):
        table.add_row(key, str(shown[key]))
    stage.console.print(table)
    found = stage.api.set(shown["id"])
    guest.still_writes()
    stage.prove(found["status"] == "available", f"the set of {len(found['volumes'])} snapshots is available")
    methods = [entry["method"] for entry in found["volumes"]]
    stage.prove(
        sorted(methods) == ["assisted"] * (DISKS - 1) + ["native"],
        f"{DISKS - 1} of them are files behind overlays, and one is block storage's own snapshot of the iSCSI volume",
    )
    stage.prove(found["consistency"]["level"] == "filesystem", "every filesystem was frozen at that instant")
    felt = max(beat.slowest_ms for beat in guest.beats()[seen:])
    stage.console.print(
        f"  the writer was held up for at most {felt:.0f} ms; the host measured {found['consistency']['frozen_ms']:.0f} ms"
    )
    stage.prove(felt < 10_000, "the guest was held up no longer than the watchdog's deadline of 10 s")
    return found


def _prove_content(stage: Stage, guest: Guest, found: dict[str, Any]) -> None:
    with stage.act(f"reading the content of the {DISKS} snapshots offline"):
        contents = [_content(stage, entry) for entry in found["volumes"]]
    counters = [content.counter for content in contents]
    now = guest.beats()[-1].round
    stage.console.print(f"  counters in the snapshots: {counters}; the guest writes round {now} now")
    stage.prove(
        min(counters) > 0 and of_one_instant(counters),
        "the counters are of one instant, over both kinds of volumes: in step, and never out of order",
    )
    stage.prove(
        all(content.clean for content in contents), "no filesystem needs its journal replayed, as only a freeze leaves it"
    )
    stage.prove(all(content.checks for content in contents), "e2fsck finds nothing wrong in any snapshot")
    before = guest.beats()[-1].round
    guest.still_writes()
    stage.prove(guest.beats()[-1].round > before > max(counters), "the guest keeps writing")


def _content(stage: Stage, entry: dict[str, Any]) -> DiskContent:
    share, name = stage.share_of(entry["volume_id"]), overlay_name(entry["volume_id"], entry["snapshot_id"])
    if entry["method"] == "native":
        return read_disk(share, name, "raw")
    backing = qcow2.read(share, name).backing
    assert backing is not None
    return read_disk(share, backing)


def _draw_chains(stage: Stage) -> None:
    for number in range(1, DISKS + 1):
        stage.show("chain", "show", f"data-{number}")


def _failed_try(stage: Stage, guest: Guest, volumes: list[str]) -> None:
    stage.console.rule("A try that has to fail")
    with stage.act("stopping the guest agent"):
        guest.execute("killall qemu-ga", wait=False)
        wait_for(lambda: not guest.agent_answers(), "the agent's end")
    wait_for(lambda: journal_is_empty(stage.stack), "the end of what the deletions left to do")
    wait_for(lambda: deletions.strange_files(stage, volumes) == [], "the end of large files that were deleted")
    before = _everything(stage, guest)
    done = stage.command("assisted-snapshot", "create", "--quiesce", "required", "--name", "third", "--wait", "demo")
    stage.console.print(f"  [yellow]{done.stderr.strip()}[/]")
    stage.prove(done.returncode != 0 and "cannot be quiesced" in done.stderr, "without an agent, --quiesce required is refused")
    after = _everything(stage, guest)
    for kind in [kind for kind in before if after[kind] != before[kind]]:
        stage.console.print(f"  {kind} before: {before[kind]}\n  {kind} after:  {after[kind]}")
    stage.prove(after == before, "the refused try changed no file, no domain and no record")
    guest.still_writes()


def _everything(stage: Stage, guest: Guest) -> dict[str, Any]:
    """Names of all files, what libvirt says of the disks, what both services list."""
    return {
        "files": stage.listing(),
        "servers": stage.api.ok("compute", "GET", f"/servers/{guest.id}"),
        "disks": [line for line in guest.domain.XMLDesc(0).split("\n") if "<source " in line],
        "volumes": stage.api.ok("volume", "GET", "/volumes/detail"),
        "snapshots": stage.api.ok("volume", "GET", "/snapshots/detail"),
        "sets": stage.api.ok("compute", "GET", "/os-assisted-snapshots"),
    }


def _summary(stage: Stage, seconds: float) -> int:
    held = sum(held for held, _ in stage.proofs)
    stage.console.rule("Summary")
    stage.console.print(
        f"A busy guest with {DISKS} disks was frozen once, and all disks were switched in one transaction. After the thaw\n"
        "block storage took its own snapshot of the iSCSI volume, and what the guest wrote meanwhile was committed back.\n"
        "Then three snapshots were deleted under it, one merged down and two up, whichever way copied less."
    )
    for good, sentence in stage.proofs:
        stage.console.print(f"  {'ok    ' if good else 'BROKEN'} {sentence}")
    stage.console.print(f"{held} of {len(stage.proofs)} proofs held, in {seconds:.0f} s.")
    return 0 if held == len(stage.proofs) else 1

"""Random requests, and the services killed at random moments. The seed is printed; STILLFRAME_SEED repeats a run.

STILLFRAME_ROUNDS makes it longer than CI does.
"""

import os
import random
import sys
import time

import pytest

from tests.support import sound
from tests.support.content import DiskContent
from tests.support.lab import Lab
from tests.support.stack import wait_for

ROUNDS = int(os.environ.get("STILLFRAME_ROUNDS", "12"))


def nothing_under_way(lab: Lab) -> bool:
    with sound.worker(lab.stack.state_dir) as worker:
        return not sound.unfinished(worker)


def test_random_kills(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ["STILLFRAME_SEED"])
    with capfd.disabled():
        sys.stderr.write(f"\nrandom kills: STILLFRAME_SEED={seed}, {ROUNDS} rounds\n")
    chance = random.Random(seed)
    known: dict[str, list[DiskContent]] = {}
    spare = lab.api.create_volume("spare")
    for _ in range(ROUNDS):
        act = chance.choice([take, take, swap])
        act(lab, chance, spare)
        time.sleep(chance.uniform(0, 0.6))
        if chance.random() < 0.7:
            lab.stack.kill()
            lab.stack.start()
        wait_for(lambda: nothing_under_way(lab), "the journal's end", 90)
        check(lab, known)


def take(lab: Lab, chance: random.Random, _spare: str) -> None:
    wanted = {"quiesce": chance.choice(["required", "preferred", "never"])}
    path = f"/servers/{lab.guest.id}/os-assisted-snapshots"
    lab.api.ok("compute", "POST", path, {"assisted_snapshot": wanted})


def swap(lab: Lab, _chance: random.Random, spare: str) -> None:
    path = f"/servers/{lab.guest.id}/os-volume_attachments"
    if lab.api.volume(spare)["status"] == "available":
        lab.api.ok("compute", "POST", path, {"volumeAttachment": {"volumeId": spare}})
    else:
        lab.api.ok("compute", "DELETE", f"{path}/{spare}")


def check(lab: Lab, known: dict[str, list[DiskContent]]) -> None:
    """Every set taken so far still holds what it held when it was first read; the guest writes on."""
    sets = lab.api.ok("compute", "GET", "/os-assisted-snapshots")["assisted_snapshots"]
    for each in sets:
        entries = [entry for entry in each["volumes"] if entry["status"] == "available"]
        if not entries:
            continue
        content = [lab.snapshot_data(e["volume_id"], e["snapshot_id"]) for e in entries if e["volume_id"] in lab.volumes]
        assert known.setdefault(str(each["id"]), content) == content
    lab.guest.still_writes()
    assert not lab.guest.frozen()
    lab.check_sound()

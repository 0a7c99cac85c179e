"""The second half of the scenario: snapshots are deleted under the running guest, one downwards, the others upwards."""

import hashlib
import json
from pathlib import Path
from typing import Any

from rich.table import Table

from stillframe.chain.names import base_name
from stillframe.compute.libvirt import domain_xml
from stillframe.host import files, hypervisor
from tests.demo.stage import Stage
from tests.support.content import digest, file_digest, flattened, read_raw, replay
from tests.support.guest.domain import Guest
from tests.support.stack import wait_for

LITTLE, MUCH = 16, 32  # MiB that the guest writes
LIMIT = 8  # MiB a second of a merge, so that it can be watched
WRITTEN = {  # by disk: what the guest writes into which file, before the second set and after it
    "vda": (("below", MUCH, "A"), ("above", LITTLE, "B")),
    "vdb": (("below", LITTLE, "C"), ("above", MUCH, "D")),
}


def tell(stage: Stage, guest: Guest, volumes: list[str], first: dict[str, Any]) -> None:
    """Deletes three snapshots while the guest writes: data-1's second one, then both of data-2."""
    stage.console.rule("Deleting snapshots under the running guest")
    second = _prepare(stage, guest)
    if second is None:
        return
    newest = {entry["volume_id"]: entry["snapshot_id"] for entry in second["volumes"]}
    oldest = {entry["volume_id"]: entry["snapshot_id"] for entry in first["volumes"]}
    with stage.act("hashing the content of all six snapshots"):
        held = _digests(stage, volumes)
    down, up = volumes[:2]
    stage.show("chain", "show", "data-1")
    stage.show("chain", "show", "data-2")
    for name, snapshot_id, method in (
        ("data-1", newest[down], "active commit and pivot"),
        ("data-2", newest[up], "block pull"),
        ("data-2", oldest[up], "block pull"),
    ):
        _delete(stage, guest, (name, snapshot_id), method)
    with stage.act("hashing the content of the three snapshots that are left"):
        left = _digests(stage, volumes)
    stage.prove(
        set(left) == {oldest[each] for each in volumes if each != up},
        "the three snapshots are gone, the three others are there",
    )
    stage.prove(all(held[key] == left[key] for key in left), "their content is unchanged, byte for byte")


def _prepare(stage: Stage, guest: Guest) -> dict[str, Any] | None:
    """data-1: much below the second snapshot and little above it; data-2: the other way round."""
    with stage.act(f"the guest writes {MUCH} MiB to data-1 and {LITTLE} MiB to data-2"):
        _fill(guest, 0)
    chosen = ("--volume", "data-1", "--volume", "data-2")
    done = stage.command("assisted-snapshot", "create", "--name", "second", *chosen, "--wait", "-f", "json", "demo")
    if done.returncode != 0:
        stage.prove(False, f"a second assisted snapshot was taken: {done.stderr.strip()}")
        return None
    with stage.act(f"the guest writes {LITTLE} MiB to data-1 and {MUCH} MiB to data-2"):
        _fill(guest, 1)
    return stage.api.set(json.loads(done.stdout)["id"])


def _fill(guest: Guest, turn: int) -> None:
    for disk, written in WRITTEN.items():
        name, size, letter = written[turn]
        once = f"head -c 1048576 /dev/zero | tr '\\0' {letter} > /tmp/once"  # slow in an emulated guest; then only copied
        guest.execute(f"{once}; for i in $(seq {size}); do cat /tmp/once; done > /mnt/{disk}/{name}; rm /tmp/once; sync")


def _chains(stage: Stage, volumes: list[str]) -> list[dict[str, Any]]:
    return [stage.api.ok("volume", "GET", f"/volumes/{volume_id}/stillframe-chain")["chain"] for volume_id in volumes]


def _digests(stage: Stage, volumes: list[str]) -> dict[str, str]:
    """By snapshot: the hash of what is read through its chain."""
    return {
        held["id"]: digest(stage.share_of(volume_id), each["name"], each["format"])
        for volume_id, chain in zip(volumes, _chains(stage, volumes), strict=True)
        for each in chain["files"]
        for held in each["snapshots"]
    }


def _delete(stage: Stage, guest: Guest, what: tuple[str, str], method: str) -> None:
    """Shows what would be done and why, does it, and shows the files that are left."""
    name, snapshot_id = what
    explained = json.loads(stage.command("snapshot", "explain", "-f", "json", snapshot_id).stdout)
    table = Table(show_header=False)
    for key in ("method", "bytes", "seconds", "why"):
        table.add_row(key, str(explained[key]))
    for step in explained["steps"]:
        table.add_row(step["step"], f"{step['file']}{' into ' + step['into'] if step['into'] else ''}")
    stage.console.print(table)
    stage.prove(
        explained["method"] == method and explained["bytes"] < 1.25 * (LITTLE << 20),
        f"{name}: the way that copies less is chosen, {method}",
    )
    before = guest.beats()[-1].round
    code = stage.watch("snapshot", "delete", "--wait", "--bandwidth", str(LIMIT), snapshot_id)
    meanwhile = guest.beats()[-1].round - before
    stage.prove(code == 0 and meanwhile > 0, f"{name}: it is deleted, and the guest wrote {meanwhile} rounds meanwhile")
    stage.show("chain", "show", name)


def tell_the_end(stage: Stage, guest: Guest, volumes: list[str]) -> None:
    """The power goes off. data-2 is one file by now and gets its own name back, since nobody has it open any more."""
    stage.console.rule("The power goes off")
    told = guest.beats()[-1].round
    hypervisor.power(guest.domain, "destroy")
    base = base_name(volumes[1])
    with stage.act("waiting until the service has given data-2 its own name back, on the share and in the definition"):
        wait_for(lambda: _named(guest) == base and strange_files(stage, volumes) == [], "the base name", 40)
    stage.show("chain", "show", "data-2")
    stage.prove(
        files.exists(stage.stack.share, base) and _named(guest) == base, "data-2 is one file with the volume's own name again"
    )
    stage.prove(strange_files(stage, volumes) == [], "no file is left over on the shares")
    with stage.act("replaying the journals of copies of the volumes and reading them"):
        disks = zip(volumes, _chains(stage, volumes), ("vda", "vdb", "", ""), strict=True)
        seen = [_look(stage.share_of(volume_id), chain, disk) for volume_id, chain, disk in disks]
    stage.prove(all(counter >= told for counter, _ in seen), f"every volume holds the last round the guest told, {told}")
    stage.prove(all(whole for _, whole in seen), "every file the guest wrote is whole, and e2fsck finds nothing wrong")


def _named(guest: Guest) -> str | None:
    """The file of data-2 in the server's definition."""
    disks = domain_xml.read(guest.domain.XMLDesc(0)).disks
    return next((disk.name for disk in disks if disk.target == "vdb"), None)


def strange_files(stage: Stage, volumes: list[str]) -> list[str]:
    """Files on the shares that belong to no volume's chain and are not its documents."""
    known = {".share-id"} | {f"volume-{volume_id}.{kind}" for volume_id in volumes for kind in ("info", "record")}
    known |= {str(each["name"]) for chain in _chains(stage, volumes) for each in chain["files"]}
    return sorted(set(stage.listing()) - known)


def _look(share: Path, chain: dict[str, Any], disk: str) -> tuple[int, bool]:
    """Returns the counter, and whether everything the guest wrote is there."""
    active = next(each for each in chain["files"] if each["active"])
    with flattened(share, active["name"], active["format"]) as raw:
        replay(raw)
        found = read_raw(raw)
        whole = [
            file_digest(raw, f"/{name}") == hashlib.sha256(letter.encode() * (size << 20)).hexdigest()
            for name, size, letter in WRITTEN.get(disk, ())
        ]
    return found.counter, found.checks and all(whole)

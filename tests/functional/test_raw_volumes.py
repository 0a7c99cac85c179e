"""Volumes that are raw files under a running guest: their overlays are qcow2, and after the last deletion they are raw again,
in both descriptions. What a guest writes into one is never read as a header. Every byte is compared."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from stillframe.compute.libvirt import domain_xml
from stillframe.host import hypervisor
from tests.support.content import flattened
from tests.support.hostile import CANARY
from tests.support.hostile_headers import RAW, file_of, small
from tests.support.operator import Operator
from tests.support.pattern import CLUSTER, seen
from tests.support.site import Disk, Site, journal_is_empty, open_site
from tests.support.stack import wait_for

GIB = 1 << 30


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("raw"), 3, raw=(0, 1)) as opened:
        yield opened


def quiet(site: Site) -> None:
    wait_for(lambda: journal_is_empty(site.lab.stack), "the journal")


def described(site: Site, disk: Disk) -> list[tuple[str | None, str]]:
    """The file and the format of a disk in the live and the inactive description."""
    view = hypervisor.view(site.lab.guest.domain)
    texts = [view.inactive_xml or "", *([view.xml] if view.active else [])]
    found = [domain_xml.read(text).disk_of(disk.id) for text in texts]
    return [(each.name, each.format) for each in found if each is not None]


def is_raw(site: Site, disk: Disk) -> None:
    """One raw file, in the rows, in the descriptions and on the share; nothing beside it."""
    quiet(site)
    base = f"volume-{disk.id}"
    chain = site.chain(disk.id)
    assert [(each["name"], each["format"], each["backing"]) for each in chain["files"]] == [(base, "raw", None)]
    assert set(described(site, disk)) == {(base, "raw")}
    size = site.lab.api.volume(disk.id)["size"] * GIB
    assert (site.share / base).stat().st_size == size
    site.look()


def stop(site: Site) -> None:
    quiet(site)
    hypervisor.power(site.lab.guest.domain, "destroy")


def start(site: Site) -> None:
    """As a user does it."""
    quiet(site)
    site.lab.guest.console.write_text("")
    site.lab.api.ok("compute", "POST", f"/servers/{site.lab.guest.id}/action", {"os-start": None})
    site.wait_up(0)


def deletion(site: Site, snapshot_id: str) -> dict[str, object]:
    found: dict[str, object] = site.lab.api.ok("volume", "GET", f"/snapshots/{snapshot_id}?explain=1")["snapshot"]["deletion"]
    return found


def test_a_set_over_raw_and_qcow2_volumes_and_back_to_raw(site: Site) -> None:
    first, second, other = site.disks
    is_raw(site, first)
    for disk in site.disks:
        site.write(disk, 0, 8, 65)
    before = [(site.share / f"volume-{disk.id}").stat().st_size for disk in (first, second)]
    taken = site.take(*site.disks)
    for disk, snapshot_id in zip(site.disks, taken, strict=True):
        assert set(described(site, disk)) == {(f"volume-{disk.id}.{snapshot_id}", "qcow2")}
        below, above = site.chain(disk.id)["files"]
        assert (below["format"], above["backing_format"]) == (("qcow2",) * 2 if disk is other else ("raw",) * 2)
        site.write(disk, 4, 8, 66)
    site.look()
    for disk, snapshot_id in zip(site.disks, taken, strict=True):
        assert disk is other or deletion(site, snapshot_id)["method"] == "active commit and pivot"
        site.delete(snapshot_id)
        site.gone(snapshot_id)
    for disk, length in zip((first, second), before, strict=True):
        is_raw(site, disk)
        file = (site.share / f"volume-{disk.id}").stat()
        assert file.st_size == length and file.st_blocks * 512 <= 16 * CLUSTER, "what nobody wrote stays a hole"
    site.check()
    is_raw(site, first)


def test_what_is_above_goes_down_in_every_order(site: Site) -> None:
    """Of two raw volumes: much in the base and little above it, and the other way round, where a qcow2 one would be pulled."""
    small, large = site.disks[:2]
    for order in itertools.permutations(range(3)):
        taken: list[list[str]] = []
        site.write(small, 0, 30, 67)
        for number in range(3):
            taken.append(site.take(small, large))
            site.write(small, number, 3, 68 + number)
            site.write(large, 5 * number, 40, 71 + number)
        for number in order:
            for snapshot_id in taken[number]:
                site.delete(snapshot_id)
            for snapshot_id in taken[number]:
                site.gone(snapshot_id)
            site.look()
        is_raw(site, small)
        is_raw(site, large)
    site.check()


def test_a_stopped_server_and_the_next_start(site: Site) -> None:
    """What was taken live is deleted while the server is stopped, and the other way round: the definition says raw then."""
    disk, other = site.disks[:2]
    (live,) = site.take(disk)
    site.write(disk, 3, 9, 74)
    stop(site)
    (stopped,) = site.take(other)
    site.delete(live)
    site.gone(live)
    is_raw(site, disk)
    start(site)
    is_raw(site, disk)
    site.write(other, 3, 9, 75)
    site.delete(stopped)
    site.gone(stopped)
    is_raw(site, other)
    stop(site)
    (exact,) = site.take(other)
    site.delete(exact)
    site.gone(exact)
    is_raw(site, other)
    start(site)
    site.write(other, 20, 2, 76)
    is_raw(site, other)


def test_growth_reaches_the_raw_file_only_by_a_merge(site: Site) -> None:
    disk = site.disks[0]
    base = site.share / f"volume-{disk.id}"

    def grow(size: int) -> None:
        site.lab.api.ok("volume", "POST", f"/volumes/{disk.id}/action", {"os-extend": {"new_size": size}})
        wait_for(lambda: site.lab.api.volume(disk.id)["size"] == size, "the extension")

    grow(2)
    is_raw(site, disk)
    (first,) = site.take(disk)
    grow(3)
    site.write(disk, (3 * GIB // CLUSTER) - 4, 4, 77)
    (second,) = site.take(disk)
    grow(4)
    assert base.stat().st_size == 2 * GIB
    site.look()
    site.delete(second)
    site.gone(second)
    assert base.stat().st_size == 2 * GIB
    site.look()
    site.delete(first)
    site.gone(first)
    is_raw(site, disk)
    (again,) = site.take(disk)
    stop(site)
    grow(5)
    assert base.stat().st_size == 4 * GIB
    site.delete(again)
    site.gone(again)
    is_raw(site, disk)
    start(site)
    site.write(disk, (5 * GIB // CLUSTER) - 4, 4, 78)
    is_raw(site, disk)


def test_a_merge_frees_what_the_guest_discarded(site: Site) -> None:
    """Zeros above a raw file become holes or zeros in it, never what was there before."""
    disk = site.disks[1]
    site.write(disk, 100, 64, 79)
    (taken,) = site.take(disk)
    site.lab.guest.execute(f"blkdiscard -o {110 * CLUSTER} -l {40 * CLUSTER} {disk.pattern.device}")
    for place in range(110, 150):
        disk.pattern.clusters.pop(place, None)
    site.write(disk, 90, 1, 80)  # which brings the tables to the file
    site.look()
    site.delete(taken)
    site.gone(taken)
    is_raw(site, disk)


def test_backups_of_its_snapshots_and_copies_that_are_raw(site: Site) -> None:
    """In full and as an increment, while the server runs; what is restored and copied holds the same and is raw. What is kept
    for the next increment when the snapshots are gone is merged when the backups are gone."""
    disk, api = site.disks[1], site.lab.api
    size, contents, backups = api.volume(disk.id)["size"], [], []
    taken = []
    for number in range(2):
        site.write(disk, 200 + number, 2, 83 + number)
        taken += site.take(disk)
        contents.append(disk.pattern.copy())
        wanted = {"volume_id": disk.id, "snapshot_id": taken[-1], "incremental": bool(number)}
        made = api.ok("volume", "POST", "/backups", {"backup": wanted})["backup"]["id"]
        wait_for(lambda made=made: api.ok("volume", "GET", f"/backups/{made}")["backup"]["status"] == "available", "the backup")  # type: ignore[misc]
        backups.append(made)
        quiet(site)
    for source, content in zip(
        ({"backup_id": backups[0]}, {"backup_id": backups[1]}, {"snapshot_id": taken[0]}), (*contents, contents[0]), strict=True
    ):
        made = api.create_volume("copy", size, volume_type="raw", **source)
        file = site.share / f"volume-{made}"
        assert seen(site.share, file.name, "raw") == content
        assert file.stat().st_size == size * GIB and file.stat().st_blocks * 512 < 64 << 20
        api.ok("volume", "DELETE", f"/volumes/{made}")
    for snapshot_id in taken:
        site.delete(snapshot_id)
        site.gone(snapshot_id)
    site.look()
    kept = site.chain(disk.id)["files"]
    assert [(each["format"], each["backing_format"]) for each in kept] == [("raw", None), ("qcow2", "raw")]
    for made in reversed(backups):
        api.ok("volume", "DELETE", f"/backups/{made}")
        wait_for(lambda made=made: api.send("volume", "GET", f"/backups/{made}").status_code == 404, "its end")  # type: ignore[misc]
    wait_for(lambda: len(site.chain(disk.id)["files"]) == 1, "the merge of what was kept for the next increment", 90)
    is_raw(site, disk)


def test_a_server_that_was_saved_continues_on_its_raw_file(site: Site) -> None:
    disk, guest = site.disks[0], site.lab.guest
    site.write(disk, 40, 3, 81)
    quiet(site)
    guest.domain.managedSave(0)
    action = f"/servers/{guest.id}/action"
    site.lab.api.ok("compute", "POST", action, {"resume": None})
    wait_for(guest.agent_answers, "the guest's agent", 90)
    site.write(disk, 41, 3, 82)
    is_raw(site, disk)


def test_a_definition_that_calls_a_raw_file_qcow2_is_neither_started_nor_snapshotted(site: Site) -> None:
    """A start would read the guest's bytes as a header. Nothing is changed until a person has corrected the definition."""
    disk, guest, api = site.disks[0], site.lab.guest, site.lab.api
    stop(site)
    right = guest.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    place = right.index(f"volume-{disk.id}")
    before = right.rindex("type='raw'", 0, place)
    wrong = right[:before] + "type='qcow2'" + right[before + len("type='raw'") :]
    site.lab.stack.hypervisor.connection().defineXML(wrong)
    assert set(described(site, disk)) == {(f"volume-{disk.id}", "qcow2")}
    requests = [
        (f"/servers/{guest.id}/action", {"os-start": None}),
        (f"/servers/{guest.id}/os-assisted-snapshots", {"assisted_snapshot": {}}),
    ]
    for path, body in requests:
        answer = api.send("compute", "POST", path, body)
        assert answer.status_code == 409 and "as qcow2, but block storage records raw" in answer.text, answer.text
    assert "wrong_disk_format" in [each["kind"] for each in Operator(site.lab).document()["findings"]]
    site.lab.stack.hypervisor.connection().defineXML(right)
    start(site)
    is_raw(site, disk)


def guest_writes(site: Site, disk: Disk, backing: str) -> bytes:
    """The guest makes an image of its disk, over a file that it names. Returns the four clusters that it wrote."""
    disk_file = file_of(small(size=GIB, l1_entries=2, backing=backing.encode(), extensions=[RAW]).start())
    told = "".join(f"\\{byte:03o}" for byte in disk_file[:CLUSTER].rstrip(b"\0"))
    tables = "".join(f"\\{byte:03o}" for byte in disk_file[CLUSTER : 2 * CLUSTER].rstrip(b"\0"))
    counts = "".join(f"\\{byte:03o}" for byte in disk_file[2 * CLUSTER : 3 * CLUSTER].rstrip(b"\0"))
    device = disk.pattern.device
    site.lab.guest.execute(
        f"head -c {len(disk_file)} /dev/zero | dd of={device} conv=notrunc bs=64k 2>/dev/null;"
        + "".join(
            f"printf '{text}' | dd of={device} conv=notrunc bs=64k seek={place} 2>/dev/null;"
            for place, text in enumerate((told, tables, counts))
        )
        + "sync"
    )
    return disk_file


def test_an_image_that_the_guest_makes_of_its_raw_disk_is_only_bytes(site: Site) -> None:
    """It names a file of the host, or the overlay that a merge is about to remove. Nobody reads it as a header: not QEMU after
    a pivot or a start, not what checks after a merge that nobody needs the file, not the doctor, no copy."""
    disk, api = site.disks[0], site.lab.api
    canary = site.lab.directory / "canary"
    canary.write_bytes(CANARY)
    admin = site.lab.stack.api("stillframe-admin")

    def reads(name: str, format_: str) -> bytes:
        with flattened(site.share, name, format_) as flat, flat.open("rb") as file:
            return file.read(4 * CLUSTER)

    def alone(written: bytes) -> None:
        quiet(site)
        base = f"volume-{disk.id}"
        assert set(described(site, disk)) == {(base, "raw")}
        assert [each["name"] for each in site.chain(disk.id)["files"]] == [base]
        with (site.share / base).open("rb") as file:
            assert file.read(4 * CLUSTER) == written
        assert (site.share / base).stat().st_size == api.volume(disk.id)["size"] * GIB

    written = guest_writes(site, disk, str(canary))
    for backing in (None, str(canary)):
        (taken,) = site.take(disk)
        assert reads(site.lab.snapshot_file(disk.id, taken), "raw") == written
        held = written
        written = guest_writes(site, disk, backing or f"volume-{disk.id}.{taken}")
        clone = api.create_volume("copy", api.volume(disk.id)["size"], snapshot_id=taken, volume_type="raw")
        assert reads(f"volume-{clone}", "raw") == held
        site.delete(taken)
        site.gone(taken)
        alone(written)
    stop(site)
    start(site)
    alone(written)
    (taken,) = site.take(disk)
    stop(site)
    site.delete(taken)
    site.gone(taken)
    alone(written)
    found = admin.send("volume", "GET", f"/volumes/{disk.id}/stillframe-chain").json()["chain"]
    assert found["problem"] is None and not [each for each in found["files"] if each["problem"]]
    assert Operator(site.lab).document()["findings"] == []
    start(site)
    api.detach(site.lab.guest.id, disk.id)
    linked = {"name": "linked", "extra_specs": {"stillframe:linked_clone": "true"}}
    admin.ok("volume", "POST", "/types", {"volume_type": linked})
    operator = Operator(site.lab)
    offline = operator.snapshot(disk.id)
    link = api.create_volume("link", api.volume(disk.id)["size"], snapshot_id=offline, volume_type="linked")
    assert reads(f"volume-{link}", "qcow2") == written
    api.attach(site.lab.guest.id, link)
    api.detach(site.lab.guest.id, link)
    for each in (link, clone):
        api.ok("volume", "DELETE", f"/volumes/{each}")
    wait_for(lambda: api.send("volume", "GET", f"/volumes/{link}").status_code == 404, "the clone to go")
    operator.settle()
    api.ok("volume", "DELETE", f"/snapshots/{offline}")
    wait_for(lambda: api.send("volume", "GET", f"/snapshots/{offline}").status_code == 404, "the deletion")
    api.attach(site.lab.guest.id, disk.id)
    alone(written)
    for path in filter(Path.is_file, site.share.iterdir()):
        with path.open("rb") as file:
            assert CANARY not in file.read(4 << 20)

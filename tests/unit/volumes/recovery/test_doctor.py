"""From what was seen to findings, from findings to a plan: every rule on values alone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.chain import plan as chain_plan
from stillframe.chain.image import Image
from stillframe.db.engine import Database
from stillframe.errors import Busy
from stillframe.host.entries import Entry
from stillframe.host.scratch import Left, name_of
from stillframe.journal.record import refuse_if_busy, this_process
from stillframe.volumes.recovery.doctor import holding, judging, looking, repairs, telling
from stillframe.volumes.recovery.doctor import targets as doctor_targets
from stillframe.volumes.recovery.doctor.findings import KINDS, Finding
from stillframe.volumes.recovery.doctor.leftovers import MODE, owner
from stillframe.volumes.recovery.doctor.seen import (
    DiskSeen,
    FileSeen,
    FreezeSeen,
    GuestsSeen,
    Known,
    ScratchSeen,
    ServerSeen,
    ShareSeen,
    TargetSeen,
    VolumeKnown,
    WorkerContext,
)
from tests.unit.builders import GIB, OTHER_SNAPSHOT, OTHER_VOLUME, SERVER, SET, SNAPSHOT, VOLUME

BASE = f"volume-{VOLUME}"
FIRST, SECOND = f"{BASE}.{SNAPSHOT}", f"{BASE}.{OTHER_SNAPSHOT}"
OTHER = f"volume-{OTHER_VOLUME}"
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp()
LONG_AGO = datetime(2026, 5, 1)


def file(name: str, backing: str | None = None, **more: Any) -> FileSeen:
    size, format_ = more.pop("size", GIB), more.pop("format", "qcow2")
    said = more.pop("said", "qcow2" if backing else None)
    return FileSeen(Image(name, format_, size, backing, said), names=backing, **more)


def entry(name: str, **more: Any) -> Entry:
    given: dict[str, Any] = {"mode": MODE, "regular": True, "links": 1, "length": 100, "allocated": 4096, "changed": 0.0}
    return Entry(name, **(given | more))


def row(volume_id: str = VOLUME, **changes: Any) -> dict[str, Any]:
    return {
        "id": volume_id,
        "name": "data",
        "size": 1,
        "status": "available",
        "active_file": f"volume-{volume_id}",
        "format": "qcow2",
        "base_format": "qcow2",
        "undo_file": None,
        "base_file": None,
        "linked_to": None,
        "share": "/share",
        "created_at": LONG_AGO,
        "updated_at": None,
        "fault": None,
    } | changes


def snapshot(snapshot_id: str = SNAPSHOT, backing: str = BASE, overlay: str | None = FIRST, **changes: Any) -> dict[str, Any]:
    return {
        "id": snapshot_id,
        "size": 1,
        "status": "available",
        "overlay": overlay,
        "backing": backing,
        "backing_format": "qcow2",
        "metadata": {},
        "created_at": LONG_AGO,
        "updated_at": None,
        "fault": None,
    } | changes


def volume(changes: dict[str, Any] | None = None, *snapshots: Any, **more: Any) -> VolumeKnown:
    found: Any = row(**(changes or {}))
    given: dict[str, Any] = {"holds": {}, "linked": {}, "attachments": (), "info": {}, "record": {}}
    return VolumeKnown(found, snapshots, **(given | more))


def worker(files: dict[str, FileSeen], *volumes: VolumeKnown, **more: Any) -> WorkerContext:
    """One share with these files; ``more`` are fields of share, known and world, told apart by their names."""
    names = [*files, ".share-id", *more.pop("also", ())]
    share: dict[str, Any] = {
        "export": "/share",
        "backend": "local",
        "path": Path("/share"),
        "known": "1",
        "marker": "1",
        "mode": 0o2770,
    }
    share |= {"entries": {name: entry(name) for name in names}, "files": files, "documents": {}, "readers": {}}
    share |= {"chains": True, "targets": None, "adopted": {}}
    known: dict[str, Any] = {"volumes": {each.row["id"]: each for each in volumes}, "backups": (), "operations": (), "sets": ()}
    known |= {"abandoned_operations": (), "taken": {}}
    known |= dict.fromkeys(("busy", "parked", "lived", "abandoned"), frozenset())
    whole: dict[str, Any] = {"guests": GuestsSeen(True, ""), "unsettled": frozenset(), "enabled": frozenset(("/share",))}
    whole |= {"now": NOW, "host": "here"}
    for key, value in more.items():
        next(fields for fields in (share, known, whole) if key in fields)[key] = value
    return WorkerContext([ShareSeen(**share)], Known(**known), **whole)


def judged(*given: Any, **more: Any) -> list[Finding]:
    return judging.judge(worker(*given, **more))


def kinds(*given: Any, **more: Any) -> list[str]:
    return [finding.kind for finding in judged(*given, **more)]


CHAIN = {BASE: file(BASE), FIRST: file(FIRST, BASE)}
SNAPPED = volume({"active_file": FIRST}, snapshot())


def test_what_fits_gives_nothing() -> None:
    assert kinds(CHAIN, SNAPPED) == []
    assert kinds({BASE: file(BASE)}, volume()) == []
    assert kinds({}) == []


@pytest.mark.parametrize(
    ("files", "known", "kind"),
    [
        ({FIRST: file(FIRST, BASE)}, SNAPPED, ["missing_file", "wrong_backing"]),
        ({}, SNAPPED, ["row_without_file"]),
        ({BASE: file(BASE)}, SNAPPED, ["missing_file"]),
        ({**CHAIN, BASE: FileSeen(problem="hostile")}, SNAPPED, ["unsafe_file"]),
        ({**CHAIN, FIRST: file(FIRST, OTHER)}, SNAPPED, ["wrong_backing"]),
        ({**CHAIN, FIRST: file(FIRST, FIRST)}, SNAPPED, ["wrong_backing", "snapshot_not_behind"]),
        ({**CHAIN, FIRST: file(FIRST)}, SNAPPED, ["snapshot_not_behind"]),
        ({**CHAIN, FIRST: file(FIRST, BASE, said="raw")}, SNAPPED, ["wrong_backing_format"]),
        ({**CHAIN, BASE: file(BASE, format="raw")}, SNAPPED, ["wrong_backing_format"] * 2),
        ({**CHAIN, BASE: file(BASE, size=2 * GIB)}, SNAPPED, ["wrong_size"] * 2),
        ({**CHAIN, FIRST: file(FIRST, BASE, size=2 * GIB)}, SNAPPED, ["wrong_size"]),
        ({**CHAIN, FIRST: file(FIRST, BASE, leaks=3)}, SNAPPED, ["leaked_clusters"]),
        ({**CHAIN, FIRST: file(FIRST, BASE, leaks=3, damage="bad")}, SNAPPED, ["corruption"]),
        ({**CHAIN, BASE: FileSeen(unsound="corrupt bit")}, SNAPPED, ["unsound_file"]),
        ({**CHAIN, BASE: file(BASE, unsound="dirty", dirty=True)}, SNAPPED, ["unsound_file"]),
        ({**CHAIN, BASE: file(BASE, unsound="dirty", dirty=True, damage="bad")}, SNAPPED, ["unsound_file", "corruption"]),
        ({**CHAIN, FIRST: file(FIRST, BASE, bitmaps=("monday",))}, SNAPPED, ["inconsistent_bitmap"]),
        ({**CHAIN, BASE: file(BASE, parent="it is gone")}, SNAPPED, ["parent_image_changed"]),
        (CHAIN, volume({"active_file": BASE}, snapshot()), ["snapshot_not_behind"]),
        (
            CHAIN,
            volume({"active_file": FIRST, "undo_file": SECOND}, snapshot(), holds={chain_plan.UNDO: SECOND}),
            ["missing_file"],
        ),
        (CHAIN, volume({"active_file": FIRST}, linked={SECOND: (OTHER_VOLUME,)}), ["missing_file"]),
        (CHAIN, volume({"active_file": FIRST}, snapshot(), snapshot(SET, SECOND, None)), ["missing_file"]),
    ],
)
def test_rows_against_files(files: dict[str, FileSeen], known: VolumeKnown, kind: list[str]) -> None:
    assert kinds(files, known) == kind


@pytest.mark.parametrize("status", ["creating", "error", "deleting", "error_deleting"])
def test_a_volume_that_was_not_made_or_goes_needs_no_file(status: str) -> None:
    assert [kind for kind in kinds({}, volume({"status": status})) if kind != "transitional_status"] == []


def test_a_snapshot_that_failed_needs_no_file_and_one_set_to_error_does() -> None:
    assert kinds({BASE: file(BASE)}, volume({}, snapshot(status="error"))) == []
    assert kinds(CHAIN, volume({"active_file": FIRST}, snapshot(status="error"))) == []
    lost = {FIRST: file(FIRST, BASE)}
    assert "missing_file" in kinds(lost, volume({"active_file": FIRST}, snapshot(status="error")))


def test_a_linked_clone_stands_on_another_volumes_file() -> None:
    linked = {"volume_id": OTHER_VOLUME, "file": OTHER, "format": "qcow2"}
    clone, source = volume({"linked_to": linked}), volume({"volume_id": OTHER_VOLUME}, linked={OTHER: (VOLUME,)})
    files = {BASE: file(BASE, OTHER), OTHER: file(OTHER)}
    assert kinds(files, clone, source) == []
    assert kinds({BASE: file(BASE, OTHER)}, clone) == ["wrong_backing"]
    assert kinds({**files, BASE: file(BASE, OTHER, said="raw")}, clone, source) == ["wrong_backing_format"]


def test_an_orphan_is_what_no_row_needs_directly_or_from_below() -> None:
    (found,) = judged({**CHAIN, SECOND: file(SECOND, FIRST)}, SNAPPED)
    assert (found.kind, found.file) == ("orphan_file", SECOND)
    hidden = volume({"active_file": SECOND}, snapshot(OTHER_SNAPSHOT, FIRST, SECOND))
    assert kinds({**CHAIN, SECOND: file(SECOND, FIRST)}, hidden) == [], "a file below one that is needed is needed"
    creating = volume({}, snapshot(status="creating"))
    assert "orphan_file" not in kinds(CHAIN, creating), "a row that is being made names it already"


def test_files_of_unknown_volumes_are_orphans_only_if_the_volume_lived_here() -> None:
    files = {OTHER: FileSeen(), f"{OTHER}.{SNAPSHOT}": file(f"{OTHER}.{SNAPSHOT}", OTHER)}
    assert kinds(files) == ["unknown_volume"]
    gone = kinds(files, lived=frozenset((OTHER_VOLUME,)), also=[f"{OTHER}.info", f"{OTHER}.record"])
    assert gone == ["orphan_file"] * 4
    linked = {"volume_id": OTHER_VOLUME, "file": OTHER, "format": "qcow2"}
    clone = volume({"linked_to": linked})
    used = {BASE: file(BASE, OTHER), OTHER: FileSeen()}
    (told,) = judged(used, clone)
    assert told.kind == "unknown_volume" and "read by a volume of ours" in told.what
    assert kinds(used, clone, lived=frozenset((OTHER_VOLUME,))) == []


@pytest.mark.parametrize(
    ("name", "volume_id"),
    [
        (BASE, VOLUME),
        (FIRST, VOLUME),
        (f"{BASE}.info", VOLUME),
        (f"{BASE}.record", VOLUME),
        (f".tmp.{VOLUME}.{SNAPSHOT}", VOLUME),
        (f".tmp.{BASE}.info", VOLUME),
        (f".trash.{FIRST}", VOLUME),
        (f".orphan.{FIRST}", VOLUME),
        (".tmp..share-id", None),
        (f"unmanaged-{VOLUME}", None),
        (f"{BASE}.other", None),
    ],
)
def test_whose_a_name_is(name: str, volume_id: str | None) -> None:
    assert owner(name) == volume_id


def test_a_left_over_is_old_and_of_no_operation_that_may_take_it_up() -> None:
    name = f".tmp.{VOLUME}.{SET}"
    assert kinds({}, also=[name]) == ["old_temporary"]
    young = {name: entry(name, changed=NOW - 60), ".share-id": entry(".share-id")}
    assert kinds({}, entries=young) == []
    for state in ("busy", "parked"):
        assert kinds({}, also=[name], **{state: frozenset((SET,))}) == []
    assert kinds({}, also=[name], unsettled=frozenset((VOLUME,))) == []


def test_a_temporary_file_of_others_beside_an_adopted_disk_is_theirs() -> None:
    ours, theirs = f".tmp.{VOLUME}.{SET}", ".tmp.download.qcow2"
    assert kinds({}, also=[ours, theirs]) == ["old_temporary", "old_temporary"]
    found = judged({}, also=[ours, theirs], adopted={"web-1.qcow2": VOLUME})
    assert [each.file for each in found if each.kind == "old_temporary"] == [ours]


def test_what_is_not_settled_is_not_judged() -> None:
    files = {**CHAIN, SECOND: file(SECOND, FIRST)}
    broken = volume({"active_file": SET, "status": "extending"}, snapshot(status="deleting"))
    assert len(kinds(files, broken)) > 3
    assert kinds(files, broken, unsettled=frozenset((VOLUME,))) == []


@pytest.mark.parametrize(
    ("reader", "more", "expected"),
    [
        ("golden.qcow2", {}, ["foreign_reader"]),
        ("below/clone", {}, ["foreign_reader"]),
        (".hidden", {}, ["foreign_reader"]),
        (OTHER, {}, ["foreign_reader"]),
        (OTHER, {"lived": frozenset((OTHER_VOLUME,))}, []),  # told as an orphan
        (f".orphan.{SECOND}", {}, []),
        ("golden.qcow2", {"unsettled": frozenset((VOLUME,))}, []),
    ],
)
def test_a_file_of_somebody_else_on_one_of_ours(reader: str, more: dict[str, Any], expected: list[str]) -> None:
    found = judged(CHAIN, SNAPPED, readers={BASE: [reader], "golden": ["not-ours"]}, **more)
    assert [each.kind for each in found] == expected
    assert all((each.file, each.volume_id) == (reader, VOLUME) and BASE in each.what for each in found)


def test_what_somebody_elses_file_is_based_on_is_neither_renamed_nor_removed() -> None:
    trash = f".trash.{FIRST}"
    for name, files in ((SECOND, ORPHANED), (trash, CHAIN)):
        also = [trash] if name == trash else []
        assert planned(files, SNAPPED, also=also)[1] == []
        done, (why,) = planned(files, SNAPPED, also=also, readers={name: ["golden.qcow2"]})
        assert (done, why) == ([], "the header of golden.qcow2 names it")


def test_modes_of_what_is_ours() -> None:
    modes = {name: entry(name, mode=0o644) for name in (BASE, ".share-id", f"{BASE}.record", OTHER, "something-else")}
    found = judged({BASE: file(BASE), OTHER: FileSeen()}, volume(), entries=modes)
    assert sorted(each.file or "" for each in found if each.kind == "wrong_mode") == [".share-id", BASE, f"{BASE}.record"]


def test_the_modes_of_an_adopted_volumes_files_follow_its_disk() -> None:
    modes = {name: entry(name, mode=0o600) for name in ("web-1.qcow2", FIRST, ".share-id", f"{BASE}.record", f"{BASE}.info")}
    known = volume({"base_file": "web-1.qcow2", "active_file": FIRST}, snapshot(backing="web-1.qcow2"))
    files = {"web-1.qcow2": file("web-1.qcow2"), FIRST: file(FIRST, "web-1.qcow2")}
    found = judged(files, known, entries=modes, adopted={"web-1.qcow2": VOLUME})
    assert "wrong_mode" not in {each.kind for each in found}


@pytest.mark.parametrize(("marker", "kind"), [(None, "marker_missing"), ("2", "marker_foreign")])
def test_a_share_that_is_not_itself_says_nothing_else(marker: str | None, kind: str) -> None:
    assert kinds({}, volume(), marker=marker) == [kind]
    assert kinds({}, marker=marker, known=None) == []


def test_a_share_in_no_backend() -> None:
    assert kinds({}, volume({"share": "/lost"})) == ["share_not_enabled"]
    assert kinds({}, volume({"share": "/silent"}), enabled=frozenset(("/share", "/silent"))) == []


def test_documents_against_rows() -> None:
    known = volume({}, info={"active": BASE}, record={"version": 1})
    right = {f"{BASE}.info": f'{{"active": "{BASE}"}}', f"{BASE}.record": '{"version":1}'}
    assert kinds({BASE: file(BASE)}, known, documents=right) == []
    assert kinds({BASE: file(BASE)}, known) == ["info_differs", "record_differs"]
    torn = {f"{BASE}.info": "{", f"{BASE}.record": '{"version": 2}'}
    told = [each.what for each in judged({BASE: file(BASE)}, known, documents=torn)]
    assert "no JSON" in told[0] and "something else" in told[1]
    stray = judged({BASE: file(BASE)}, volume(), documents={f"{BASE}.info": f'{{"active": "{BASE}"}}'})
    assert "should not be there" in stray[0].what


@pytest.mark.parametrize(
    ("changes", "attachments", "stuck"),
    [
        ({"status": "extending"}, 0, True),
        ({"status": "available"}, 0, False),
        ({"status": "in-use"}, 1, False),
        ({"status": "reserved"}, 0, True),
        ({"status": "reserved"}, 1, False),
        ({"status": "attaching"}, 1, True),
        ({"status": "attaching", "updated_at": datetime(2026, 6, 1, 11, 59)}, 1, False),
        ({"status": "detaching", "updated_at": datetime(2026, 6, 1, 11, 59)}, 0, True),
        ({"status": "maintenance"}, 0, False),
    ],
)
def test_statuses_nothing_will_end(changes: dict[str, Any], attachments: int, stuck: bool) -> None:
    held = tuple({"instance_id": SERVER, "status": "attaching"} for _ in range(attachments))
    given = ({BASE: file(BASE)}, volume(changes, attachments=held))
    assert (kinds(*given) == ["transitional_status"]) == stuck
    for state in ("busy", "parked"):
        assert kinds(*given, **{state: frozenset((VOLUME,))}) == []


def test_snapshots_and_backups_that_nothing_will_end() -> None:
    young = snapshot(status="creating", updated_at=datetime(2026, 6, 1, 11, 59))
    assert kinds({BASE: file(BASE)}, volume({}, young)) == []
    assert kinds({BASE: file(BASE)}, volume({}, snapshot(status="creating"))) == ["transitional_status"]
    backup = {"id": SET, "status": "restoring", "volume_id": VOLUME, "fault": None}
    assert kinds({}, backups=[backup]) == ["transitional_status"]
    assert kinds({}, backups=[backup], busy=frozenset((SET,))) == []


def operation(**changes: Any) -> dict[str, Any]:
    return {
        "id": SET,
        "service": "volumes",
        "kind": "k",
        "state": "parked",
        "fault": None,
        "intent": {"volume_id": VOLUME},
    } | changes


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"row": {"status": "error_extending"}}, True),
        ({"row": {"status": "available"}}, False),
        ({"row": {"status": "in-use"}}, False),
        ({"snapshot": {"status": "error_deleting"}}, True),
        ({"backup": {"status": "error"}}, True),
        ({"set": {"status": "error"}}, True),
        ({}, False),
    ],
)
def test_what_was_abandoned_is_told_until_it_is_put_right(changes: dict[str, Any], told: bool) -> None:
    message = "a person abandoned it: gone; nothing was put back: look at a"
    fault = {"code": "abandoned", "message": message, "details": {"next": "delete it again"}}
    values = {key: {**value, "fault": message} for key, value in changes.items()}
    given = volume(values.get("row", {}), *([snapshot(**values["snapshot"])] if "snapshot" in values else []))
    backups = [{"id": SET, "volume_id": VOLUME, **values["backup"]}] if "backup" in values else []
    sets = [{"id": SET, "server_id": SERVER, "volumes": [], **values["set"]}] if "set" in values else []
    asked = {"volume_id": VOLUME, "snapshot_ids": [SNAPSHOT], "set_id": SET, "backup": {"id": SET}}
    other = operation(state="undone", fault=fault, intent={"volume_id": OTHER_VOLUME})
    abandoned_operations = [operation(state="undone", fault=fault, intent=asked), other]
    known = {"abandoned_operations": abandoned_operations, "backups": backups, "sets": sets}
    findings = [each for each in judged({BASE: file(BASE)}, given, **known) if each.kind == "abandoned_operation"]
    assert [(each.volume_id, message in each.what, "delete it again" in each.what) for each in findings] == (
        [(VOLUME, True, True)] if told else []
    )


def test_operations() -> None:
    (found,) = judged({}, operations=[operation(fault={"message": "neither nor"})])
    assert (found.kind, found.volume_id) == ("parked_operation", VOLUME) and "neither nor" in found.what
    assert kinds({}, operations=[operation(state="running")]) == []
    own = operation(service="doctor", state="running")
    assert kinds({}, operations=[own]) == []
    assert kinds({}, operations=[own], abandoned=frozenset((SET,))) == ["abandoned_repair"]


def disk(name: str = BASE, target: str = "vda", volume_id: str | None = VOLUME, format_: str | None = None) -> DiskSeen:
    return DiskSeen(target, f"/share/{name}", name, volume_id, format_)


def in_network(place: str = "iscsi one/1") -> DiskSeen:
    """A disk that is no file: block storage does not say which of its files a target gives out."""
    return DiskSeen("vda", place, None, VOLUME)


def server(disks: list[DiskSeen], inactive: list[DiskSeen] | None = None, **more: Any) -> GuestsSeen:
    freezes = more.pop("freezes", ())
    return GuestsSeen(True, "", [ServerSeen(SERVER, "web", True, disks, inactive, **more)], freezes=freezes, listed=True)


HELD: dict[str, Any] = {"id": SET, "instance_id": SERVER, "status": "attached", "connector": {"host": "here"}}
ATTACHED = volume({"status": "in-use"}, attachments=(HELD,))


@pytest.mark.parametrize(
    ("known", "guests", "expected"),
    [
        (ATTACHED, server([disk()], [disk()]), []),
        (ATTACHED, server([disk()]), []),
        (ATTACHED, server([disk()], [disk(FIRST)]), ["descriptions_differ"]),
        (ATTACHED, server([disk()], []), ["descriptions_differ"]),
        (ATTACHED, server([disk(FIRST)], [disk(FIRST)]), ["wrong_active_file"]),
        (ATTACHED, server([in_network()], [in_network()], saved=[in_network()]), []),
        (ATTACHED, server([in_network()], [in_network("iscsi other/1")]), ["descriptions_differ"]),
        (ATTACHED, server([in_network()], [in_network()], saved=[in_network("iscsi other/1")]), ["saved_names_other_file"]),
        (volume(), server([in_network()], [in_network()]), ["disk_without_attachment"]),
        (ATTACHED, server([], []), ["attached_without_disk"]),
        (ATTACHED, server([], [disk()]), ["disk_left_guest"]),
        (volume(), server([disk()], [disk()]), ["disk_without_attachment"]),
        (volume(), server([disk("copy.qcow2")], [disk("copy.qcow2")]), []),  # a copied domain: it keeps the serial
        (ATTACHED, server([disk("moved.qcow2")], [disk("moved.qcow2")]), ["wrong_active_file"]),
        (volume(), server([disk("x.img", volume_id=None)], []), []),
        (ATTACHED, server([disk()], [disk()], saved=[disk()]), []),
        (ATTACHED, server([disk()], [disk()], saved=[disk(FIRST)]), ["saved_names_other_file"]),
        (ATTACHED, server([disk(FIRST)], [disk(FIRST)], saved=[disk()]), ["saved_names_other_file", "wrong_active_file"]),
        (ATTACHED, server([disk()], [disk()], saved=[disk("x.img", volume_id=None)]), []),
        (ATTACHED, server([disk(format_="qcow2")], [disk(format_="qcow2")], saved=[disk(format_="qcow2")]), []),
        (ATTACHED, server([disk(format_="raw")], [disk()]), ["wrong_disk_format"]),
        (ATTACHED, server([disk()], [disk(format_="raw")]), ["wrong_disk_format"]),
        (ATTACHED, server([disk()], [disk()], saved=[disk(format_="raw")]), ["wrong_disk_format"]),
        (ATTACHED, server([disk()], [disk()], frozen=True), ["guest_frozen"]),
        (ATTACHED, server([disk()], [disk()], frozen=True, freezes=[FreezeSeen(SERVER, SET, False)]), ["maybe_frozen"]),
    ],
)
def test_servers_against_rows(known: VolumeKnown, guests: GuestsSeen, expected: list[str]) -> None:
    assert kinds({BASE: file(BASE)}, known, guests=guests, host="here") == expected


NO_SERVER = GuestsSeen(True, "", listed=True)


@pytest.mark.parametrize(
    ("guests", "host", "expected"),
    [
        (NO_SERVER, "here", ["server_gone"]),
        (NO_SERVER, "elsewhere", []),
        (GuestsSeen(True, "libvirt does not run"), "here", []),
        (GuestsSeen(False, "away"), "here", []),
    ],
)
def test_a_server_is_gone_only_when_who_can_see_it_says_so(guests: GuestsSeen, host: str, expected: list[str]) -> None:
    assert kinds({BASE: file(BASE)}, ATTACHED, guests=guests, host=host) == expected


@pytest.mark.parametrize(
    ("seen", "guests", "why"),
    [
        (file(BASE), NO_SERVER, None),
        (file(BASE, locked=True), NO_SERVER, "a program has"),
        (file(BASE), replace(NO_SERVER, mentioned=frozenset((BASE,))), "a server's description names"),
    ],
)
def test_a_volume_is_released_only_when_nobody_uses_it(seen: FileSeen, guests: GuestsSeen, why: str | None) -> None:
    whole = worker({BASE: seen}, ATTACHED, guests=guests, host="here")
    plan = repairs.plan(whole, judging.judge(whole))
    assert [repair.verb for repair in plan.repairs] == ([] if why else ["release_attachment"])
    assert [why in told for _, told in plan.refused if why] == ([True] if why else [])


@pytest.mark.parametrize(("status", "expected"), [("available", ["set_is_good"]), ("error", [])])
def test_a_set_in_error_whose_snapshots_are_good_is_found(status: str, expected: list[str]) -> None:
    entries = [{"volume_id": VOLUME, "snapshot_id": SNAPSHOT}]
    failed = {"id": SET, "server_id": SERVER, "fault": "refused", "status": "error", "volumes": entries}
    known = volume({"active_file": FIRST}, snapshot(status=status))
    seen = worker(CHAIN, known, sets=[failed])
    found = judging.judge(seen)
    assert [each.kind for each in found] == expected
    assert [repair.verb for repair in repairs.plan(seen, found).repairs] == (["set_available"] if expected else [])
    assert kinds(CHAIN, known, sets=[failed], parked=frozenset((SET,))) == []


def test_a_freeze_under_way_is_nothing_to_find_until_it_is_overdue() -> None:
    running = [operation(state="running")]
    assert kinds({}, guests=server([], [], freezes=[FreezeSeen(SERVER, SET, False)]), operations=running) == []
    assert kinds({}, guests=server([], [], freezes=[FreezeSeen(SERVER, SET, True)]), operations=running) == ["maybe_frozen"]


def test_a_server_with_an_operation_is_not_judged() -> None:
    assert kinds({BASE: file(BASE)}, ATTACHED, guests=server([disk(FIRST)], []), busy=frozenset((SERVER,))) == []


def planned(*given: Any, **more: Any) -> tuple[list[str], list[str]]:
    """What would be repaired, by verb, and why the rest is not."""
    seen = worker(*given, **more)
    found = repairs.plan(seen, judging.judge(seen))
    return [f"{repair.verb} {repair.finding.file}" for repair in found.repairs], [why for _finding, why in found.refused]


ORPHANED = {**CHAIN, SECOND: file(SECOND, FIRST)}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"guests": GuestsSeen(False, "libvirt is away")}, "not known: libvirt is away"),
        ({"guests": GuestsSeen(True, "", mentioned=frozenset((SECOND,)))}, "description names it"),
        ({"also": [f".orphan.{SECOND}"]}, "is there already"),
        ({"parked": frozenset((VOLUME,))}, "has not ended"),
    ],
)
def test_an_orphan_stays_unless_it_is_proven_one(more: dict[str, Any], why: str) -> None:
    assert planned(ORPHANED, SNAPPED) == ([f"quarantine {SECOND}"], [])
    done, refused = planned(ORPHANED, SNAPPED, **more)
    assert done == [] and len(refused) == 1 and why in refused[0]


def test_an_orphan_that_is_open_or_named_stays() -> None:
    assert planned({**ORPHANED, SECOND: file(SECOND, FIRST, locked=True)}, SNAPPED) == ([], ["a program has it open"])
    named = {**ORPHANED, f"{OTHER}.{SET}": FileSeen(names=SECOND)}
    assert planned(named, SNAPPED) == ([], [f"the header of {OTHER}.{SET} names it"])


def test_orphans_go_from_the_top_and_none_below_one_that_stays() -> None:
    third = f"{BASE}.{SET}"
    tower = {**ORPHANED, third: file(third, SECOND)}
    assert planned(tower, SNAPPED) == ([f"quarantine {third}", f"quarantine {SECOND}"], [])
    stays = {**tower, third: file(third, SECOND, locked=True)}
    assert planned(stays, SNAPPED) == ([], ["a program has it open", f"the header of {third} names it"])


def test_trash_that_holds_what_is_asked_for_stays() -> None:
    trash = f".trash.{FIRST}"
    assert planned(CHAIN, SNAPPED, also=[trash]) == ([f"remove {trash}"], [])
    done, (why,) = planned({BASE: file(BASE)}, SNAPPED, also=[trash])
    assert done == [] and f"{FIRST}, whose content it holds, is missing" in why


def test_leaks_are_given_back_only_while_nobody_can_open_the_file() -> None:
    leaking = {BASE: file(BASE, leaks=1)}
    assert planned(leaking, volume()) == ([f"free_leaks {BASE}"], [])
    assert planned({BASE: file(BASE, leaks=1, locked=True)}, volume())[1] == ["a program has it open"]
    assert "'in-use'" in planned(leaking, ATTACHED)[1][0]
    linked = {"volume_id": VOLUME, "file": BASE, "format": "qcow2"}
    clone = volume({"volume_id": OTHER_VOLUME, "linked_to": linked, "status": "in-use"}, attachments=({"instance_id": None},))
    files = {**leaking, OTHER: file(OTHER, BASE)}
    done, (why,) = planned(files, volume({}, linked={BASE: (OTHER_VOLUME,)}), clone)
    assert done == [] and OTHER_VOLUME in why


def test_counts_are_repaired_only_where_that_is_all_there_is_and_nobody_can_open_the_file() -> None:
    def seen(**more: Any) -> dict[str, FileSeen]:
        return {BASE: replace(file(BASE, unsound="dirty", dirty=True), **more)}

    assert planned(seen(), volume()) == ([f"repair_counts {BASE}"], [])
    assert planned(seen(locked=True), volume())[1] == ["a program has it open"]
    assert "'in-use'" in planned(seen(), ATTACHED)[1][0]
    assert "beyond its reference counts: bad" in planned(seen(damage="bad"), volume())[1][0]
    assert "monday" in planned(seen(bitmaps=("monday",)), volume())[1][0]
    assert "guessed" in planned({BASE: FileSeen(unsound="corrupt bit")}, volume())[1][0]


def test_documents_are_written_only_where_the_files_agree() -> None:
    known = volume({}, record={"version": 1})
    assert planned({BASE: file(BASE)}, known) == ([f"write_document {BASE}.record"], [])
    assert planned({BASE: file(BASE, size=2 * GIB)}, known) == ([], ["the files do not agree with the rows"])


def test_what_only_a_person_can_settle_is_in_no_plan() -> None:
    for kind in set(KINDS) - set(repairs._MAKE):
        assert repairs.plan(worker({}), [Finding(kind, "something")]) == repairs.Plan([], [])


def test_locks_are_released_before_anything_else_and_removal_comes_last() -> None:
    name = f".tmp.{OTHER_VOLUME}.{SET}"
    own = operation(service="doctor", state="running", id=SERVER, intent={"volume_id": None})
    seen = worker(
        {**ORPHANED, BASE: file(BASE, leaks=1)},
        replace(SNAPPED, record={"version": 1}),
        also=[name],
        operations=[own],
        abandoned=frozenset((SERVER,)),
    )
    verbs = [repair.verb for repair in repairs.plan(seen, judging.judge(seen)).repairs]
    assert verbs == ["release", "write_document", "free_leaks", "quarantine", "remove"]


def test_people_are_told_what_it_is_what_it_means_and_what_to_do() -> None:
    seen = worker(ORPHANED, SNAPPED, also=[f".orphan.{SET}"])
    findings = judging.judge(seen)
    text = telling.text(seen, findings, 2000)
    assert text.splitlines()[:4] == [
        "1. orphan_file",
        f"   {findings[0].what}",
        f"   {KINDS['orphan_file'].means}",
        f"   Do: {KINDS['orphan_file'].advice}",
    ]
    assert f"1 orphan is put aside on /share (4096 bytes): .orphan.{SET}" in text
    assert text.splitlines()[-1] == "1 finding; looked at 1 volume, 1 share, 0 servers"
    assert max(map(len, telling.text(seen, findings, 60).splitlines())) < 140, "only names are longer than asked for"
    blind = replace(worker({}), guests=GuestsSeen(False, "away"), troubles=["the share /x does not answer"])
    assert telling.text(blind, [], 100).splitlines() == [
        "Not looked at: the share /x does not answer",
        "Note: servers were not looked at: away",
        "nothing found; looked at 0 volumes, 1 share, 0 servers",
    ]


def test_programs_are_told_the_same() -> None:
    seen = worker({**ORPHANED, SECOND: file(SECOND, FIRST, locked=True)}, SNAPPED)
    findings = judging.judge(seen)
    told = telling.document(seen, findings, repairs.plan(seen, findings))
    assert told["findings"][0]["kind"] == "orphan_file" and told["findings"][0]["file"] == SECOND
    assert (told["plan"], told["not_repaired"][0]["why"]) == ([], "a program has it open")
    assert "plan" not in telling.document(seen, findings, None)


def test_the_page_explains_every_kind() -> None:
    page = (Path(__file__).parents[4] / "docs/how-to/doctor.md").read_text()
    assert [kind for kind in KINDS if f"`{kind}`" not in page] == []


def test_a_file_that_may_not_be_read_is_told_and_the_other_shares_are_looked_at(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def share(pool: Any, *_arguments: Any) -> ShareSeen:
        if pool.export.export == "/bad":
            raise PermissionError(13, "Permission denied", "/bad/volume-x")
        return ShareSeen("/good", "local", Path("/good"), "id", "id", 0o770)

    pools = [SimpleNamespace(export=SimpleNamespace(export=export), targets=None) for export in ("/bad", "/good")]
    monkeypatch.setattr(looking, "Backends", lambda *_: SimpleNamespace(every=pools))
    monkeypatch.setattr(looking, "_share", share)
    settings: Any = SimpleNamespace(host="here")
    seen = looking.look(settings, database, lambda _busy: GuestsSeen(True, ""), looking.Options())
    assert [each.export for each in seen.shares] == ["/good"]
    assert seen.troubles == ["share /bad: the host refuses the service's access: volume-x: Permission denied"]


def test_what_is_repaired_is_held_and_let_go(database: Database) -> None:
    def look() -> None:
        with database.read() as connection:
            refuse_if_busy(connection, f"volume:{VOLUME}")

    with holding.held(database, "here", [VOLUME], {"says": "a test"}), pytest.raises(Busy, match="repair"):
        look()
    look()


@pytest.mark.parametrize(
    ("owner", "days", "over"),
    [
        ("here:1:never", 0, True),
        ("elsewhere:1:1", 2, False),
        ("elsewhere:1:1", 4, True),  # lost, or the host has another name by now
        ("", 40, False),  # this process
    ],
)
def test_whose_doctor_runs_no_more(owner: str, days: int, over: bool) -> None:
    made = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=days)
    held: Any = {"owner": owner or str(this_process("here")), "created_at": made}
    assert looking._is_over(held, "here") is over


TARGET = TargetSeen("iqn.x:volume", BASE, ["iqn.x:host"])
GIVEN = {"id": "a1", "instance_id": SERVER, "connector": {"initiator": "iqn.x:host"}}


@pytest.mark.parametrize(
    ("attachments", "targets", "found"),
    [
        ((), {}, []),
        ((), None, []),
        ((GIVEN,), None, []),
        ((GIVEN,), {VOLUME: TARGET}, []),
        ((), {VOLUME: TARGET}, ["orphan_target"]),
        ((GIVEN,), {}, ["missing_target"]),
        ((GIVEN,), {VOLUME: replace(TARGET, initiators=["iqn.x:other"])}, ["missing_target"]),
        ((GIVEN,), {VOLUME: replace(TARGET, file=FIRST)}, ["missing_target"]),
        (({**GIVEN, "connector": None},), {}, []),
        ((GIVEN,), {VOLUME: replace(TARGET, sessions=["iqn.x:host at 192.0.2.7"])}, []),
        ((GIVEN,), {VOLUME: replace(TARGET, sessions=["iqn.x:host at 192.0.2.7", "iqn.x:h"])}, ["foreign_session"]),
    ],
)
def test_targets_are_held_against_the_attachments(attachments: Any, targets: Any, found: list[str]) -> None:
    seen = worker({BASE: file(BASE)}, volume({}, attachments=attachments), targets=targets)
    assert [each.kind for each in doctor_targets.judge(seen, seen.shares[0])] == found


def test_who_is_connected_to_an_orphan_is_named() -> None:
    seen = worker({BASE: file(BASE)}, volume(), targets={VOLUME: replace(TARGET, sessions=["iqn.x:host at 192.0.2.7"])})
    (found,) = doctor_targets.judge(seen, seen.shares[0])
    assert "connected to it: iqn.x:host at 192.0.2.7" in found.what


def test_a_snapshot_in_a_file_of_its_own_fits_and_one_that_failed_needs_none() -> None:
    own = FIRST
    taken = snapshot(backing=own, overlay=None, backing_format="raw")
    raw = {name: replace(file(name), image=Image(name, "raw", GIB)) for name in (BASE, own)}
    assert kinds(raw, volume({"format": "raw", "base_format": "raw"}, taken), chains=False) == []
    failed = volume({"format": "raw", "base_format": "raw"}, taken | {"status": "error"})
    assert kinds({BASE: raw[BASE]}, failed, chains=False) == []
    strange = SECOND
    more = {**raw, strange: replace(file(strange), image=Image(strange, "raw", GIB))}
    assert kinds(more, volume({"format": "raw", "base_format": "raw"}, taken), chains=False) == ["orphan_file"]


OVERLAY = name_of(VOLUME, SET)


def left(server_: GuestsSeen = NO_SERVER, **more: Any) -> GuestsSeen:
    """A scratch overlay, and the servers there are."""
    facts: dict[str, Any] = {"length": 4096, "made": True, "holds_data": True, "programs": (), **more}
    return replace(server_, scratch=[ScratchSeen(Path("/scratch"), Left(OVERLAY, VOLUME, SET, **facts))])


def on_scratch(**more: Any) -> GuestsSeen:
    one = DiskSeen("vda", f"/scratch/{OVERLAY}", OVERLAY, VOLUME, "qcow2")
    return left(replace(server([one], [one], **more), mentioned=frozenset({OVERLAY})))


@pytest.mark.parametrize(
    ("guests", "more", "expected"),
    [
        (left(), {}, ["scratch_left"]),
        (left(holds_data=False), {}, ["scratch_left"]),
        (on_scratch(), {}, ["scratch_in_use"]),
        (on_scratch(saved=[DiskSeen("vda", f"/scratch/{OVERLAY}", OVERLAY, VOLUME)]), {}, ["scratch_in_use"]),
        (left(), {"busy": frozenset({SET})}, []),
        (left(), {"parked": frozenset({SET})}, []),
        (left(), {"unsettled": frozenset({SET})}, []),
    ],
)
def test_a_scratch_overlay_outlives_no_set(guests: GuestsSeen, more: dict[str, Any], expected: list[str]) -> None:
    known = ATTACHED if guests.servers else volume()
    assert kinds({BASE: file(BASE)}, known, guests=guests, **more) == expected


@pytest.mark.parametrize(
    ("guests", "why"),
    [
        (left(holds_data=False), None),
        (left(holds_data=False, made=False), None),
        (left(), "may be nowhere else"),
        (left(holds_data=False, programs=("qemu (pid 7)",)), "qemu (pid 7) has it open"),
        (replace(left(holds_data=False), mentioned=frozenset({OVERLAY})), "description names it"),
        (replace(left(holds_data=False), complete=False, why="away"), "is not known: away"),
    ],
)
def test_only_a_scratch_overlay_that_holds_nothing_is_removed(guests: GuestsSeen, why: str | None) -> None:
    seen = worker({BASE: file(BASE)}, volume(), guests=guests)
    plan = repairs.plan(seen, judging.judge(seen))
    assert [repair.verb for repair in plan.repairs] == ([] if why else ["remove_scratch"])
    assert [why in told for _, told in plan.refused if why] == ([True] if why else [])


def test_a_native_snapshot_that_its_set_does_not_know_is_told() -> None:
    known = volume({"active_file": FIRST}, snapshot(metadata={"stillframe_set_id": SET}))
    assert kinds(CHAIN, known, taken={SET: frozenset({SNAPSHOT})}) == []
    assert kinds(CHAIN, known, taken={SET: frozenset()}) == ["snapshot_of_no_set"]
    assert kinds(CHAIN, known) == ["snapshot_of_no_set"]
    assert kinds(CHAIN, known, busy=frozenset({SET})) == []

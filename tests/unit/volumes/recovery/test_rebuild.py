"""Rows from what lies on a share: which of headers, .info and record is believed, and what is refused."""

import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillframe.chain.image import Image, Parent
from stillframe.errors import BadImage, ChainConflict, StillframeError
from stillframe.host import entries
from stillframe.volumes.recovery import rebuild, rebuilt_clones, rebuilt_rows
from stillframe.volumes.recovery.rebuilt_rows import Given, Rebuilt, Source, check_info, check_record
from tests.unit.builders import GIB, OTHER_SNAPSHOT, OTHER_VOLUME, SERVER, SNAPSHOT, VOLUME

BASE = f"volume-{VOLUME}"
FIRST, SECOND = f"{BASE}.{SNAPSHOT}", f"{BASE}.{OTHER_SNAPSHOT}"
WHEN = "2026-01-02T03:04:05.000006"
PLACE = Given("nfs-1", "server:/export", "zone", "project", "user")


def image(name: str, backing: str | None = None, size: int = GIB, format_: str = "qcow2") -> Image:
    return Image(name, format_, size, backing, "qcow2" if backing else None)


def volume(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": VOLUME,
        "project_id": "demo",
        "user_id": "somebody",
        "name": "data",
        "description": None,
        "size": 1,
        "availability_zone": "nova",
        "metadata": {"k": "v"},
        "active_file": BASE,
        "format": "qcow2",
        "base_format": "qcow2",
        "backend": "elsewhere",
        "share": "/before",
        "snapshot_id": None,
        "source_volid": None,
        "bootable": True,
        "image_metadata": None,
        "linked_to": None,
        "undo_file": None,
        "created_at": WHEN,
        "volume_type": "gold",
    }
    return row | changes


def snapshot(snapshot_id: str, backing: str, overlay: str | None, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": snapshot_id,
        "project_id": "demo",
        "user_id": "somebody",
        "name": "before",
        "description": None,
        "volume_id": VOLUME,
        "size": 1,
        "metadata": {},
        "overlay": overlay,
        "backing": backing,
        "backing_format": "qcow2",
        "consistency": {"level": "crash"},
        "server_id": None,
        "created_at": WHEN,
    }
    return row | changes


def record(row: dict[str, Any], *snapshots: dict[str, Any]) -> dict[str, Any]:
    return {"version": 1, "volume": row, "snapshots": list(snapshots)}


def rebuilt(images: list[Image], record_: Any = None, info: Any = None, parent_image: Image | None = None) -> Rebuilt:
    times = {each.name: datetime(2026, 1, number + 1) for number, each in enumerate(images)}
    found = Source(VOLUME, {each.name: each for each in images}, info or {}, record_ or {}, times)
    return rebuilt_rows.rebuild(found, PLACE, parent_image)


DEEP: list[Any] = []
for _ in range(100):
    DEEP = [DEEP]
CHAIN = [image(BASE), image(FIRST, BASE)]
TAKEN = snapshot(SNAPSHOT, BASE, FIRST)
ONE = record(volume(active_file=FIRST), TAKEN)


def test_a_record_gives_everything_but_where_it_lies_now() -> None:
    made = rebuilt(CHAIN, ONE, {"active": FIRST, SNAPSHOT: FIRST})
    assert made.type_name == "gold" and not made.notes
    known = {key: value for key, value in volume(active_file=FIRST).items() if key not in ("volume_type", "created_at")}
    assert made.volume == known | {
        "backend": "nfs-1",
        "share": "server:/export",
        "status": "available",
        "parent_images": None,
        "needs_cleanup": False,
        "base_file": None,
        "created_at": datetime.fromisoformat(WHEN),
    }
    assert made.snapshots == [TAKEN | {"status": "available", "progress": "100%", "created_at": datetime.fromisoformat(WHEN)}]


def test_files_that_nobody_needs_any_more_are_looked_at_later() -> None:
    assert rebuilt(CHAIN, record(volume(active_file=FIRST))).volume["needs_cleanup"]


def test_a_lost_info_file_loses_nothing() -> None:
    assert rebuilt(CHAIN, ONE) == rebuilt(CHAIN, ONE, {"active": FIRST, SNAPSHOT: FIRST})


def test_a_snapshot_that_only_info_knows_is_newer_than_the_record() -> None:
    images = [*CHAIN, image(SECOND, FIRST)]
    made = rebuilt(images, ONE, {"active": SECOND, SNAPSHOT: FIRST, OTHER_SNAPSHOT: SECOND})
    assert made.volume["active_file"] == SECOND
    second = made.snapshots[1]
    assert (second["id"], second["name"], second["backing"], second["project_id"]) == (OTHER_SNAPSHOT, None, FIRST, "demo")
    assert second["created_at"] == datetime(2026, 1, 2), "when its data was last written to"
    assert len(made.notes) == 2


def test_a_snapshot_that_only_the_record_knows_was_deleted() -> None:
    made = rebuilt(
        [*CHAIN],
        record(volume(active_file=SECOND), TAKEN, snapshot(OTHER_SNAPSHOT, FIRST, SECOND)),
        {
            "active": FIRST,
            SNAPSHOT: FIRST,
        },
    )
    assert [row["id"] for row in made.snapshots] == [SNAPSHOT] and made.volume["active_file"] == FIRST
    assert any("deleted" in note for note in made.notes)


def test_the_tip_of_a_branch_that_was_left_has_no_overlay_and_stays() -> None:
    images = [image(BASE), image(FIRST, BASE), image(SECOND, BASE)]
    tip = snapshot(SERVER, FIRST, None)
    made = rebuilt(images, record(volume(active_file=SECOND), TAKEN, tip), {"active": SECOND, SNAPSHOT: FIRST})
    assert [(row["id"], row["backing"], row["overlay"]) for row in made.snapshots] == [
        (SNAPSHOT, BASE, FIRST),
        (SERVER, FIRST, None),
    ]
    with pytest.raises(ChainConflict, match="holds snapshot"):
        rebuilt([image(BASE), image(SECOND, BASE)], record(volume(active_file=SECOND), tip), {"active": SECOND})


@pytest.mark.parametrize("record_", [record(volume()), None], ids=["recorded", "cinder"])
def test_overlays_nobody_wrote_down_are_snapshots_and_the_last_is_active(record_: Any) -> None:
    images = [image(BASE), image(FIRST, BASE), image(SECOND, FIRST)]
    made = rebuilt(images, record_, None if record_ else {"active": BASE})
    assert made.volume["active_file"] == SECOND
    assert [(row["id"], row["backing"]) for row in made.snapshots] == [(SNAPSHOT, BASE), (OTHER_SNAPSHOT, FIRST)]


def test_two_overlays_nobody_wrote_down_are_not_guessed_between() -> None:
    with pytest.raises(ChainConflict, match="which is active nobody knows"):
        rebuilt([image(BASE), image(FIRST, BASE), image(SECOND, BASE)], record(volume()))


def test_a_header_that_grew_after_the_record_is_believed_and_one_that_shrank_is_not() -> None:
    made = rebuilt([image(BASE, size=3 * GIB)], record(volume()))
    assert made.volume["size"] == 3 and "3 GiB" in made.notes[0]
    with pytest.raises(ChainConflict, match="less than the 2 GiB"):
        rebuilt([image(BASE)], record(volume(size=2)))


def test_an_undo_whose_file_is_gone_is_no_undo() -> None:
    images = [image(BASE), image(FIRST, BASE), image(SECOND, BASE)]
    whole = record(volume(active_file=SECOND, undo_file=FIRST), TAKEN)
    assert rebuilt(images, whole).volume["undo_file"] == FIRST
    without = record(volume(active_file=SECOND, undo_file=FIRST), snapshot(SNAPSHOT, BASE, SECOND))
    assert rebuilt([images[0], images[2]], without).volume["undo_file"] is None


def test_a_linked_clone_needs_what_it_reads() -> None:
    below = f"volume-{OTHER_VOLUME}"
    linked = {"volume_id": OTHER_VOLUME, "file": below, "format": "qcow2"}
    files, known = [image(BASE, below)], record(volume(linked_to=linked))
    assert rebuilt(files, known, None, image(below)).volume["linked_to"] == linked
    with pytest.raises(ChainConflict, match="no file of its volume"):
        rebuilt(files, known)


@pytest.mark.parametrize(
    ("images", "record_", "info", "told"),
    [
        ([], ONE, None, "a record and no file"),
        ([image(BASE)], ONE, None, "is missing"),
        ([image(BASE)], None, {"active": FIRST}, "is missing"),
        (CHAIN, ONE, {"active": FIRST, SNAPSHOT: SECOND}, "is missing"),
        ([image(BASE, FIRST), image(FIRST, BASE)], ONE, None, "stands on the active file"),
        ([image(BASE, size=2 * GIB), image(FIRST, BASE)], ONE, None, "would shrink"),
        ([image(BASE, format_="raw"), image(FIRST, BASE)], ONE, None, "but it is 'raw'"),
        ([image(BASE), image(FIRST, BASE)], None, {"active": BASE, SNAPSHOT: BASE}, "no file of its volume"),
        ([image(FIRST, f"volume-{OTHER_VOLUME}")], ONE, None, "no file of its volume"),
    ],
)
def test_what_is_not_sound_is_refused(images: list[Image], record_: Any, info: Any, told: str) -> None:
    with pytest.raises((BadImage, ChainConflict), match=told):
        rebuilt(images, record_, info)


def test_a_header_that_is_not_believed_refuses_the_volume() -> None:
    with pytest.raises(BadImage, match="hostile"):
        rebuilt_rows.rebuild(Source(VOLUME, {}, {}, {}, {}, "hostile"), PLACE, None)


@pytest.mark.parametrize(
    "spoil",
    [
        {"version": 2},
        {"version": True},
        {"volume": volume(size=True)},
        {"volume": volume(name="a\0b")},
        {"volume": volume(name="\ud800")},
        {"volume": volume(metadata={"\ud800": "v"})},
        {"snapshots": [snapshot(SNAPSHOT, BASE, FIRST, consistency={"a": ["\0"]})]},
        {"snapshots": [snapshot(SNAPSHOT, BASE, FIRST, consistency={"a": DEEP})]},
        {"volume": None},
        {"volume": volume(id=OTHER_VOLUME)},
        {"volume": volume(size="1")},
        {"volume": volume(base_format="vmdk")},
        {"volume": volume(more=1)},
        {"volume": volume(created_at="yesterday")},
        {"volume": volume(linked_to={"file": 1})},
        {"volume": volume(created_at="2026-01-01T00:00:00+00:00")},
        {"volume": volume(name="x" * 2000)},
        {"volume": volume(size=0)},
        {"volume": volume(size=1 << 60)},
        {"volume": volume(metadata={"k": 1})},
        {"volume": volume(image_metadata={"k": []})},
        {"snapshots": [snapshot("../x", BASE, FIRST)]},
        {"snapshots": [snapshot(SNAPSHOT, BASE, FIRST, metadata={"k": None})]},
        {"snapshots": {}},
        {"snapshots": [None]},
        {"snapshots": [snapshot(SNAPSHOT, BASE, FIRST, volume_id=OTHER_VOLUME)]},
    ],
)
def test_a_record_that_is_none_is_refused(spoil: dict[str, Any]) -> None:
    check_record(ONE, VOLUME)
    with pytest.raises(BadImage):
        check_record({**ONE, **spoil}, VOLUME)


@pytest.mark.parametrize(
    "info", [[], {"x": BASE}, {"active": f"volume-{OTHER_VOLUME}"}, {"active": "/etc/passwd"}, {"active": BASE, "no id": BASE}]
)
def test_an_info_document_that_is_none_is_refused(info: Any) -> None:
    check_info({}, VOLUME)
    check_info({"active": FIRST, SNAPSHOT: FIRST}, VOLUME)
    with pytest.raises(BadImage):
        check_info(info, VOLUME)


@pytest.mark.parametrize("written", [1e12, -1e11, 1e300, float("inf")])
def test_a_time_that_no_date_can_hold_keeps_no_volume_from_being_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: float
) -> None:
    """Some file systems keep any time that a file's owner gives it."""
    for name in (BASE, f"volume-{OTHER_VOLUME}"):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, GIB)
    real = entries.look(tmp_path)
    monkeypatch.setattr(entries, "look", lambda _path: {**real, BASE: replace(real[BASE], written=written)})
    found = rebuild.find(tmp_path, PLACE, rebuild.Formats("raw"))
    assert found.refused == {}
    assert [each.volume["created_at"].year > 1970 for each in found.rebuilt] == [False, True]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from([VOLUME, SNAPSHOT, BASE, FIRST, WHEN]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*ONE, *volume(), *TAKEN, "active"]), inner),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(
    JSON,
    st.dictionaries(st.sampled_from(list(volume())), JSON, max_size=4),
    st.dictionaries(st.sampled_from(list(TAKEN)), JSON),
)
def test_whatever_a_share_holds_ends_in_rows_or_in_an_error_of_ours(info: Any, changes: Any, taken: Any) -> None:
    document = record(
        volume(active_file=FIRST, **changes) if "active_file" not in changes else volume(**changes), TAKEN | taken
    )
    try:
        check_info(info, VOLUME)
        check_record(document, VOLUME)
        rebuilt(CHAIN, document, info)
    except StillframeError:
        return


CLONE = FIRST
ALONE = volume(active_file=BASE, format="raw", base_format="raw")
CLONED = snapshot(SNAPSHOT, CLONE, None, backing_format="raw")


def alone(*files: str, record_: Any = None, info: Any = None) -> Rebuilt:
    times = {name: datetime(2026, 1, number + 1) for number, name in enumerate(files)}
    found = Source(VOLUME, {name: Image(name, "raw", GIB) for name in files}, info or {}, record_ or {}, times)
    return rebuilt_clones.rebuild(found, PLACE)


def test_files_that_stand_alone_are_what_the_record_says() -> None:
    made = alone(BASE, CLONE, record_=record(ALONE, CLONED), info={"active": BASE})
    assert not made.notes and made.volume["active_file"] == BASE
    assert [(row["id"], row["backing"], row["overlay"], row["name"]) for row in made.snapshots] == [
        (SNAPSHOT, CLONE, None, "before")
    ]


def test_a_snapshot_whose_file_is_gone_was_deleted() -> None:
    made = alone(BASE, record_=record(ALONE, CLONED), info={"active": BASE})
    assert made.snapshots == [] and "it was deleted" in made.notes[0]


def test_a_file_that_nothing_names_becomes_a_snapshot() -> None:
    for documents in ({}, {"record_": record(ALONE)}):
        made = alone(BASE, CLONE, **documents)
        assert [(row["id"], row["backing"], row["status"]) for row in made.snapshots] == [(SNAPSHOT, CLONE, "available")]
        assert "taken as a snapshot" in made.notes[0]


def test_after_a_revert_info_says_which_file_is_active() -> None:
    active = SECOND
    made = alone(CLONE, active, record_=record(ALONE, CLONED), info={"active": active})
    assert made.volume["active_file"] == active
    assert [row["id"] for row in made.snapshots] == [SNAPSHOT]
    assert alone(active).volume["active_file"] == active
    with pytest.raises(ChainConflict, match="which is active nobody knows"):
        alone(CLONE, active)
    with pytest.raises(ChainConflict, match="is missing"):
        alone(CLONE, record_=record(ALONE, CLONED))


def test_an_adopted_volume_has_the_base_that_its_record_names() -> None:
    base = Image("web-1.qcow2", "qcow2", GIB)
    top = Image(FIRST, "qcow2", GIB, base.name, "qcow2")
    said = record(volume(active_file=FIRST, base_file=base.name), snapshot(SNAPSHOT, base.name, FIRST))
    rebuilt_rows.check_record(said, VOLUME)
    made = rebuilt([base, top], said)
    assert (made.volume["base_file"], made.volume["active_file"]) == ("web-1.qcow2", FIRST)
    assert [row["backing"] for row in made.snapshots] == ["web-1.qcow2"]


def test_the_parent_images_of_an_adopted_base_are_what_its_header_was_read_with() -> None:
    golden = (Parent("golden", "/golden", "qcow2", 1, 1), Parent("/raw", "/raw", "raw", 1, 1))
    base = Image("web-1.qcow2", "qcow2", GIB, parents=golden)
    made = rebuilt([base], record(volume(active_file=base.name, base_file=base.name)))
    assert made.volume["parent_images"] == ["/golden", "/raw"]


def test_a_record_from_before_there_were_adopted_volumes_is_taken() -> None:
    said = record(volume(active_file=BASE))
    assert "base_file" not in said["volume"]
    rebuilt_rows.check_record(said, VOLUME)


OURS = [BASE, f"volume-{OTHER_VOLUME}", f"{BASE}.record", f"volume-{OTHER_VOLUME}.{SNAPSHOT}", ".share-id", f".trash.{BASE}"]


@pytest.mark.parametrize("name", OURS)
def test_a_forged_record_takes_no_file_of_another_volume_for_its_base(name: str) -> None:
    """Its volume would read that file as another project's, and remove it when it is deleted."""
    with pytest.raises(BadImage, match="as the adopted disk"):
        rebuilt_rows.check_record(record(volume(active_file=name, base_file=name)), VOLUME)


@pytest.mark.parametrize("name", ["../web-1.qcow2", "/etc/shadow", "-web", "a b", "json:{}"])
def test_a_base_of_another_place_is_refused(name: str) -> None:
    with pytest.raises(BadImage, match="plain file name"):
        rebuilt_rows.check_record(record(volume(active_file=BASE, base_file=name)), VOLUME)

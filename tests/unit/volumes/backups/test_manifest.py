"""The manifest: what is written reads back, and nothing else is believed."""

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.errors import BadBackup
from stillframe.volumes.backups import keys, manifest
from stillframe.volumes.backups.manifest import Manifest, Source, StoredObject
from stillframe.volumes.backups.stream import Written
from tests.unit.builders import OTHER_VOLUME, VOLUME

BACKUP = "aaaaaaaa-0000-4000-8000-000000000001"
PARENT = "bbbbbbbb-0000-4000-8000-000000000002"
SUM = "0123456789abcdef" * 4
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def objects(count: int) -> tuple[StoredObject, ...]:
    return tuple(StoredObject(name, 100 + at, SUM) for at, name in enumerate(keys.layer_names(BACKUP, count)))


def made(layers: int = 2, parent: str | None = PARENT) -> Manifest:
    source = Source("data", "of José \U0001f4be", {"purpose": "ledger"})
    return Manifest(BACKUP, VOLUME, parent, datetime(2026, 11, 23, 12, 0, 0, 5), 1 << 30, source, objects(layers))


def sealed(content: Any) -> bytes:
    """The text of a manifest whose own sum is right, whatever it says."""
    return json.dumps({**content, "sha256": manifest._own_sum(content)}).encode()


def content_of(found: Manifest) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(manifest.serialise(found))
    del document["sha256"]
    return document


@given(
    layers=st.integers(1, keys.MAX_LAYERS),
    created_at=st.datetimes(),
    size=st.integers(1, 1 << 56),
    name=st.none() | TEXT,
    metadata=st.dictionaries(TEXT, TEXT, max_size=3),
)
def test_what_is_written_reads_back(
    layers: int, created_at: datetime, size: int, name: str | None, metadata: dict[str, str]
) -> None:
    plain = created_at.replace(fold=0)
    found = Manifest(BACKUP, VOLUME, PARENT, plain, size, Source(name, name, metadata), objects(layers))
    assert manifest.parse(manifest.serialise(found), VOLUME, BACKUP) == found


def test_the_text_is_for_people_too() -> None:
    document = json.loads(manifest.serialise(made()))
    assert document["created_at"] == "2026-11-23T12:00:00.000005Z"
    assert document["volume"] == {"name": "data", "description": "of José \U0001f4be", "metadata": {"purpose": "ledger"}}
    assert [each["name"] for each in document["objects"]] == [f"backup-{BACKUP}.1.qcow2", f"backup-{BACKUP}.qcow2"]


def test_no_flipped_bit_changes_what_is_believed() -> None:
    honest = manifest.serialise(made())
    harmless = 0
    for at in range(len(honest)):
        for bit in range(8):
            text = honest[:at] + bytes([honest[at] ^ (1 << bit)]) + honest[at + 1 :]
            try:
                assert manifest.parse(text, VOLUME, BACKUP) == made()
                harmless += 1
            except BadBackup as error:
                assert f"volume-{VOLUME}/backup-{BACKUP}.json" in error.message
    assert harmless < 10, "only a hexadecimal digit of an escape may be a capital as well"


def test_every_truncation_is_noticed() -> None:
    honest = manifest.serialise(made())
    for length in range(len(honest)):
        with pytest.raises(BadBackup):
            manifest.parse(honest[:length], VOLUME, BACKUP)


@given(st.binary(max_size=200))
def test_nothing_but_bad_backup_comes_of_any_text(text: bytes) -> None:
    with pytest.raises(BadBackup):
        manifest.parse(text, VOLUME, BACKUP)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"null",
        b"[]",
        b'{"version": NaN}',
        b'{"version": 1, "version": 1}',
        b"9" * 5000,
        b" " * (manifest.MOST_BYTES + 1),
        "{}".encode("utf-16"),
    ],
)
def test_texts_that_trouble_a_parser_are_refused(text: bytes) -> None:
    with pytest.raises(BadBackup, match="damaged or not a manifest"):
        manifest.parse(text, VOLUME, BACKUP)


LIES: dict[str, Any] = {
    "another version": {"version": 2},
    "a version that is no number": {"version": True},
    "an id in capitals": {"backup_id": BACKUP.upper()},
    "an id that is none": {"volume_id": "../x"},
    "a parent that is none": {"parent_id": ""},
    "itself as its parent": {"parent_id": BACKUP},
    "no size": {"size": 0},
    "a negative size": {"size": -1},
    "a size that is no number": {"size": True},
    "a size in a float": {"size": 1e9},
    "an absurd size": {"size": 1 << 57},
    "a time without a zone": {"created_at": "2026-11-23T12:00:00.000005"},
    "a time that never was": {"created_at": "2026-02-30T12:00:00.000005Z"},
    "digits of another script": {"created_at": "٢٠٢٦-11-23T12:00:00.000005Z"},
    "no objects": {"objects": []},
    "objects that are no list": {"objects": {}},
    "an object without a sum": {"objects": [{"name": f"backup-{BACKUP}.qcow2", "bytes": 1}]},
    "too many objects": {"objects": [{"name": "x", "bytes": 1, "sha256": SUM}] * (keys.MAX_LAYERS + 1)},
    "a volume without metadata": {"volume": {"name": None, "description": None}},
    "metadata that is no text": {"volume": {"name": None, "description": None, "metadata": {"a": 1}}},
    "too much metadata": {"volume": {"name": None, "description": None, "metadata": {str(n): "" for n in range(1025)}}},
    "a long name": {"volume": {"name": "x" * 256, "description": None, "metadata": {}}},
    "half a pair": {"volume": {"name": "\ud800", "description": None, "metadata": {}}},
    "a NUL": {"volume": {"name": "a\0b", "description": None, "metadata": {}}},
    "one field more": {"extra": 1},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_though_its_sum_is_right(lie: str) -> None:
    honest = content_of(made())
    manifest.parse(sealed(honest), VOLUME, BACKUP)
    with pytest.raises(BadBackup, match="damaged or not a manifest"):
        manifest.parse(sealed({**honest, **LIES[lie]}), VOLUME, BACKUP)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../passwd"},
        {"name": f"backup-{PARENT}.qcow2"},
        {"name": f"backup-{BACKUP}.1.qcow2\n"},
        {"name": f"backup-{BACKUP}.2.qcow2"},
        {"name": None},
        {"bytes": 0},
        {"bytes": "100"},
        {"sha256": SUM.upper()},
        {"sha256": SUM[1:]},
        {"extra": 1},
    ],
)
def test_an_object_has_the_name_its_backup_gives_it_and_a_real_sum(change: dict[str, Any]) -> None:
    document = content_of(made())
    document["objects"][0] |= change
    with pytest.raises(BadBackup):
        manifest.parse(sealed(document), VOLUME, BACKUP)


def test_a_full_backup_is_one_file() -> None:
    assert manifest.parse(manifest.serialise(made(1, None)), VOLUME, BACKUP).parent_id is None
    with pytest.raises(BadBackup):
        manifest.serialise(made(2, None))


def test_another_backups_manifest_is_not_this_ones() -> None:
    text = manifest.serialise(made())
    for volume_id, backup_id in ((OTHER_VOLUME, BACKUP), (VOLUME, PARENT)):
        with pytest.raises(BadBackup, match="another backup's"):
            manifest.parse(text, volume_id, backup_id)


@pytest.mark.parametrize("size", [0, 1 << 57])
def test_what_could_not_be_read_again_is_not_written(size: int) -> None:
    with pytest.raises(BadBackup):
        manifest.serialise(replace(made(), size=size))


@pytest.mark.parametrize("written", [Written(99, SUM), Written(101, SUM), Written(100, "0" * 64)])
def test_an_object_that_differs_is_named(written: Written) -> None:
    name = f"backup-{BACKUP}.1.qcow2"
    manifest.verify(made(), name, Written(100, SUM))
    with pytest.raises(BadBackup, match=f"^volume-{VOLUME}/{name} "):
        manifest.verify(made(), name, written)

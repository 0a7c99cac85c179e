"""What Python is told of rows is what the tables have: each column, its type, and whether it may be null."""

import types
from datetime import datetime
from typing import Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from sqlalchemy import JSON, BigInteger, Boolean, Column, DateTime, Float, Integer, String, Table, Text

from stillframe.db import group_rows, rows, values
from stillframe.db.tables import metadata

PYTHON: dict[type, type] = {
    String: str,
    Text: str,
    Integer: int,
    BigInteger: int,
    Float: float,
    Boolean: bool,
    DateTime: datetime,
}
# By table: what its row is called, and what is inserted and changed, where a query module does that with whole rows.
NAMES = {
    "volume_types": "VolumeType",
    "volume_type_access": "VolumeTypeAccess",
    "qos_specs": "QosSpecs",
    "volume_transfers": "VolumeTransfer",
    "messages": "Message",
    "quota_classes": "QuotaClass",
    "service_states": "ServiceState",
    "volumes": "Volume",
    "snapshots": "Snapshot",
    "attachments": "Attachment",
    "quotas": "Quota",
    "services": "Service",
    "write_turn": "WriteTurn",
    "deployments": "Deployment",
    "shares": "Share",
    "backups": "Backup",
    "assisted_snapshots": "AssistedSnapshot",
    "server_settings": "ServerSettings",
    "adopted_disks": "AdoptedDisk",
    "snapshot_policies": "SnapshotPolicy",
    "operations": "Operation",
    "operation_totals": "OperationTotal",
    "known_volumes": "KnownVolume",
    "operation_resources": "OperationResource",
    "group_types": "GroupType",
    "volume_groups": "VolumeGroup",
    "group_volume_types": "GroupVolumeType",
    "group_snapshots": "GroupSnapshot",
}
KNOWN = {**vars(rows), **vars(values), **vars(group_rows)}
INSERTED = [name for name in NAMES if f"New{NAMES[name]}" in KNOWN]
CHANGED = [name for name in NAMES if f"{NAMES[name]}Changes" in KNOWN]


def parts(hint: Any) -> tuple[set[Any], bool]:
    """Returns the types that a hint names, and whether None is one of them."""
    if get_origin(hint) is NotRequired:
        hint = get_args(hint)[0]
    named = set(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else {hint}
    return named - {type(None)}, type(None) in named


def fits(column: Column[Any], hint: Any) -> bool:
    named, nullable = parts(hint)
    if nullable is not column.nullable:
        return False
    if isinstance(column.type, JSON):  # a document: objects, lists, or a text where several kinds may stand
        plain = {get_origin(each) or each for each in named}
        return plain <= {dict, list, str} or all(is_typeddict(each) for each in plain)
    return named == {PYTHON[type(column.type)]}


def told(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def wrong(table: Table, hints: dict[str, Any]) -> list[str]:
    return [name for name, hint in hints.items() if name not in table.c or not fits(table.c[name], hint)]


def may_be_left_out(column: Column[Any]) -> bool:
    return bool(column.nullable) or column.default is not None


def test_every_table_has_a_row() -> None:
    assert set(NAMES) == set(metadata.tables)
    assert {"volumes", "snapshots", "operations"} <= set(INSERTED) & set(CHANGED)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_has_the_columns_of_its_table(name: str) -> None:
    table, kind = metadata.tables[name], KNOWN[f"{NAMES[name]}Row"]
    assert list(told(kind)) == [column.name for column in table.columns]
    assert (wrong(table, told(kind)), kind.__optional_keys__) == ([], frozenset())


@pytest.mark.parametrize("name", INSERTED)
def test_an_insert_gives_what_the_table_needs(name: str) -> None:
    """Of what may be left out, an insert may still be made to say it."""
    table, kind = metadata.tables[name], KNOWN[f"New{NAMES[name]}"]
    needed = {column.name for column in table.columns if not may_be_left_out(column)} - {"seq"}
    assert set(told(kind)) == {column.name for column in table.columns} - {"seq"}
    assert needed <= kind.__required_keys__
    assert wrong(table, told(kind)) == []


@pytest.mark.parametrize("name", CHANGED)
def test_what_changes_is_a_column(name: str) -> None:
    kind = KNOWN[f"{NAMES[name]}Changes"]
    assert wrong(metadata.tables[name], told(kind)) == []
    assert (kind.__required_keys__, "id" in told(kind)) == (frozenset(), False)


def test_the_comparison_sees_each_kind_of_difference() -> None:
    table = metadata.tables["volumes"]
    right = {"size": int, "name": str | None, "metadata": dict[str, str], "linked_to": rows.LinkedFile | None}
    assert wrong(table, right) == []
    bad = {"sizes": int, "size": str, "name": str, "status": str | None, "metadata": int}
    assert wrong(table, bad) == list(bad)

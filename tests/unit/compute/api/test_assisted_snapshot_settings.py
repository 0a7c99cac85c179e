"""What assisted snapshots of a server keep to, as clients read and change it."""

from pathlib import Path
from typing import Any

import pytest

from stillframe.db.engine import Database
from tests.unit.builders import SERVER
from tests.unit.web.shell import SERVICES, Site

PATH = f"/v2.1/servers/{SERVER}/os-assisted-snapshot-settings"
SETTINGS = {"server_id": SERVER, "quiesce": None, "allow_unfreezable": ["vfat", "/boot/efi"], "hook_timeout": 90}


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Site:
    return Site(database, tmp_path, SERVICES["compute"], {"show_server_settings": SETTINGS, "change_server_settings": SETTINGS})


def test_they_are_shown_and_changed_by_the_worker(site: Site) -> None:
    shown = site.ask("GET", PATH)
    assert (shown.status_code, shown.json) == (200, {"assisted_snapshot_settings": SETTINGS})
    changes = {"allow_unfreezable": ["vfat", "/boot/efi"], "hook_timeout": None, "quiesce": "required"}
    changed = site.ask("PUT", PATH, json={"assisted_snapshot_settings": changes})
    assert (changed.status_code, changed.json) == (200, {"assisted_snapshot_settings": SETTINGS})
    assert site.bus.asked == [
        ("show_server_settings", {"server_id": SERVER}),
        ("change_server_settings", {"server_id": SERVER, "changes": changes}),
    ]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"quiesce": "maybe"},
        {"allow_unfreezable": "vfat"},
        {"allow_unfreezable": [""]},
        {"allow_unfreezable": ["vfat", "vfat"]},
        {"allow_unfreezable": ["a\nb"]},
        {"allow_unfreezable": ["x"] * 2},
        {"allow_unfreezable": [str(number) for number in range(33)]},
        {"hook_timeout": 0},
        {"hook_timeout": 601},
        {"hook_timeout": 1.5},
        {"hook_timeout": "60"},
        {"hook_timeout": True},
        {"project_id": "other"},
    ],
    ids=str,
)
def test_nonsense_never_reaches_the_worker(site: Site, given: Any) -> None:
    assert site.ask("PUT", PATH, json={"assisted_snapshot_settings": given}).status_code == 400
    assert site.bus.asked == []

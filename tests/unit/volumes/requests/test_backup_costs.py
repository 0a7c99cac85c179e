"""What a backup would cost: the figures, the refusals, and that the figures stay where it would be refused."""

from typing import Any, cast

import pytest

from stillframe.errors import NotFound
from stillframe.host import staging
from stillframe.volumes.requests import backup_costs
from stillframe.volumes.requests import backups as backup_requests
from stillframe.volumes.requests import snapshots as snapshot_requests
from stillframe.volumes.worker.context import WorkerContext
from tests.unit.builders import BACKUP, new_id
from tests.unit.volumes.requests.test_backups import Setting
from tests.unit.volumes.site import MEMBER, Site

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
CLUSTER = 64 * KIB


@pytest.fixture
def setting(site: Site, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setattr(WorkerContext, "repository", lambda _worker, _container: cast("Any", None))
    monkeypatch.setattr(staging, "room", lambda _base: GIB)
    return Setting(site)


def create(setting: Setting, **wanted: Any) -> dict[str, Any]:
    asked = {"volume_id": setting.volume, "snapshot_id": setting.snapshots[3], "incremental": False, **wanted}
    return backup_costs.explain_create(setting.site.worker, MEMBER, asked)


def test_a_full_backup_reads_all_and_an_incremental_one_what_lies_above_twice(setting: Setting) -> None:
    """Each of the four files holds a cluster of its own; the parent holds the lowest two."""
    full, increment = create(setting), create(setting, incremental=True)
    assert (full["method"], full["bytes"], full["staging_needed"]) == ("full backup", 4 * CLUSTER, 4 * CLUSTER)
    assert (increment["method"], increment["bytes"], increment["parent_id"]) == ("incremental backup", 4 * CLUSTER, BACKUP)
    assert increment["staging_needed"] == 4 * CLUSTER
    assert increment["bytes_stored"] < full["bytes_stored"]
    assert full["possible"] and increment["possible"] and full["staging_free"] == GIB
    assert setting.site.unfinished() == []


@pytest.mark.parametrize(("held", "size"), [(0, GIB), (CLUSTER, 1 << 44), (GIB, GIB), (3 * GIB + 1, 1 << 40)])
def test_the_bound_holds_for_data_that_cannot_be_compressed(held: int, size: int) -> None:
    clusters = -(-held // CLUSTER)
    tables = min(-(-size // (512 * MIB)), clusters)
    least = clusters * CLUSTER + tables * CLUSTER + size // (512 * MIB) * 8
    assert least <= backup_costs.stored_at_most(held, size) <= 1.1 * least + 8 * CLUSTER + size // 4096


def test_the_figures_stay_where_there_is_no_room(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "room", lambda _base: 1)
    found = create(setting)
    assert (found["possible"], found["bytes"], found["staging_free"]) == (False, 4 * CLUSTER, 1)
    assert f"{4 * CLUSTER} are needed there meanwhile" in found["why"]


def test_what_is_refused_says_why(setting: Setting) -> None:
    setting.change(held_file=None)
    assert "make a full backup first" in create(setting, incremental=True)["why"]
    backup_requests.delete(setting.site.worker, MEMBER, BACKUP)
    assert "is busy: operation" in create(setting, incremental=True)["why"]
    assert "is busy: operation" in backup_costs.explain_delete(setting.site.worker, MEMBER, BACKUP)["why"]
    with pytest.raises(NotFound):
        create(setting, volume_id=new_id())
    with pytest.raises(NotFound):
        backup_costs.explain_restore(setting.site.worker, MEMBER, new_id())


def test_a_deletion_that_ends_a_hold_tells_what_is_merged_away(setting: Setting) -> None:
    """The file is a snapshot's too until that goes; then only the backup holds it."""
    site = setting.site
    kept = backup_costs.explain_delete(site.worker, MEMBER, BACKUP)
    assert (kept["possible"], kept["bytes"], kept["bytes_freed"]) == (True, 0, 4096)
    snapshot_requests.delete(site.worker, MEMBER, setting.snapshots[1])
    site.end()
    freed = backup_costs.explain_delete(site.worker, MEMBER, BACKUP)
    assert freed["bytes"] == CLUSTER and freed["steps"][0]["step"] in ("commit", "pull")
    assert "with qemu-img to merge it away" in freed["why"]

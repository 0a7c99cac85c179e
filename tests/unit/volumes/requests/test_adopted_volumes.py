"""Volumes that are adopted a second time, after their attachments were lost."""

from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.db import attachments, volumes
from stillframe.db.engine import Database
from stillframe.errors import Conflict
from stillframe.volumes.requests import adopted_volumes
from tests.unit.builders import SERVER, VOLUME, context, new_id, volume_row

PLACE = {"directory": "/srv/disks", "file": "web-1.qcow2", "format": "qcow2"}


@pytest.mark.parametrize(("project", "connected"), [("demo", True), ("other", False)])
def test_a_volume_of_another_project_is_not_given_to_the_server(
    database: Database, monkeypatch: pytest.MonkeyPatch, project: str, connected: bool
) -> None:
    """It was transferred, or its record was forged before a rebuild."""
    base: Any = {"share": PLACE["directory"], "active_file": PLACE["file"], "base_file": PLACE["file"], "status": "available"}
    with database.write() as connection:
        volume_row(connection, project_id=project, format="qcow2", backend="adopted", **base)
        row = volumes.get(connection, VOLUME, None)
    monkeypatch.setattr(adopted_volumes, "_look", lambda *_: (None, None, row))
    worker: Any = SimpleNamespace(database=database)
    about = {"server_id": SERVER, "project_id": "demo", "user_id": "u", "attachment_id": new_id(), "connector": {"host": "h"}}
    wanted = {"id": VOLUME, **about, **PLACE}
    if connected:
        assert adopted_volumes.adopt(worker, context("service"), wanted) == VOLUME
    else:
        with pytest.raises(Conflict, match="another project than server"):
            adopted_volumes.adopt(worker, context("service"), wanted)
    with database.read() as connection:
        assert bool(attachments.of_volumes(connection, [VOLUME])[VOLUME]) == connected

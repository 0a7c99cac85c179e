"""The command line's words about what backups cost."""

from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.client.osc import backup as osc
from stillframe.errors import BadRequest, NotFound
from tests.unit.builders import BACKUP, SNAPSHOT, VOLUME
from tests.unit.client.fakes import Adapter, Answer

TOLD = {"possible": True, "method": "full backup", "steps": [], "bytes": 7, "seconds": 0.1, "why": "because", "dependants": []}
VOLUMES = {f"GET /volumes/{VOLUME}": Answer(200, {"volume": {"id": VOLUME}})}
BACKUPS = {f"GET /backups/{BACKUP}": Answer(200, {"backup": {"id": BACKUP}})}


def run(command: Any, answers: dict[str, Any], *arguments: str) -> tuple[dict[str, Any], Adapter]:
    adapter = Adapter(answers)
    app = SimpleNamespace(client_manager=SimpleNamespace(sdk_connection=SimpleNamespace(block_storage=adapter)))
    made = command(app, None)
    return dict(zip(*made.take_action(made.get_parser("backup").parse_args(list(arguments))), strict=True)), adapter


def test_a_backup_is_explained_with_its_snapshot_found_by_name() -> None:
    named = {"GET /snapshots/detail?name=monday": Answer(200, {"snapshots": [{"id": SNAPSHOT, "name": "monday"}]})}
    answers = {**VOLUMES, **named, "POST /backups?explain=1": Answer(200, {"explanation": TOLD})}
    shown, adapter = run(osc.ExplainCreate, answers, "--incremental", "--snapshot", "monday", VOLUME)
    assert (shown["method"], shown["bytes"]) == ("full backup", 7)
    wanted = {"volume_id": VOLUME, "incremental": True, "snapshot_id": SNAPSHOT}
    assert adapter.sent[-1] == ("POST", "/backups?explain=1", {"backup": wanted})


@pytest.mark.parametrize(("arguments", "wanted"), [((), {}), (("--volume", VOLUME), {"volume_id": VOLUME})])
def test_a_restore_is_explained(arguments: tuple[str, ...], wanted: dict[str, str]) -> None:
    path = f"/backups/{BACKUP}/restore?explain=1"
    answers = {**VOLUMES, **BACKUPS, f"POST {path}": Answer(200, {"explanation": TOLD})}
    _shown, adapter = run(osc.ExplainRestore, answers, *arguments, BACKUP)
    assert adapter.sent[-1] == ("POST", path, {"restore": wanted})


def test_a_deletion_is_only_ever_read() -> None:
    answers = {**BACKUPS, f"GET /backups/{BACKUP}?explain=1": Answer(200, {"backup": {"deletion": TOLD}})}
    shown, adapter = run(osc.ExplainDelete, answers, BACKUP)
    assert shown["why"] == "because" and {method for method, _path, _body in adapter.sent} == {"GET"}


def test_a_name_that_fits_none_or_several_is_refused() -> None:
    path = "GET /backups?name=monday"
    with pytest.raises(NotFound, match="no backup has the name or id 'monday'"):
        run(osc.ExplainDelete, {path: Answer(200, {"backups": []})}, "monday")
    several = [{"id": each, "name": "monday"} for each in (BACKUP, SNAPSHOT)]
    with pytest.raises(BadRequest, match=f"2 backups have the name 'monday': {BACKUP}, {SNAPSHOT}"):
        run(osc.ExplainDelete, {path: Answer(200, {"backups": several})}, "monday")

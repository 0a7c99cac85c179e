"""The command line's words about single snapshots."""

from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.client import waiting
from stillframe.client.osc import snapshot as osc
from stillframe.errors import StepFailed
from tests.unit.builders import SET, SNAPSHOT, VOLUME
from tests.unit.client.fakes import Adapter, Answer, fault

PATH = f"GET /snapshots/{SNAPSHOT}"
OUTCOME = {"level": "crash", "frozen_ms": 12.5, "degraded_reason": "no agent", "set_id": SET}


def row(status: str, progress: str = "100%", **more: Any) -> Answer:
    fields = ("name", "description", "size", "created_at")
    shown = {"id": SNAPSHOT, "volume_id": VOLUME, "status": status, "consistency": None, **dict.fromkeys(fields), **more}
    return Answer(200, {"snapshot": {**shown, "os-extended-snapshot-attributes:progress": progress}})


def run(command: Any, answers: dict[str, Any], *arguments: str) -> Any:
    adapter = Adapter(answers)
    app = SimpleNamespace(client_manager=SimpleNamespace(sdk_connection=SimpleNamespace(block_storage=adapter)))
    made = command(app, None)
    return made.take_action(made.get_parser("snapshot").parse_args(list(arguments)))


def test_a_snapshot_is_shown_with_progress_fault_and_consistency() -> None:
    answers = {PATH: row("error_deleting", "40%", fault="the share is away", consistency=OUTCOME)}
    shown = dict(zip(*run(osc.Show, answers, SNAPSHOT), strict=True))
    assert {key: shown[key] for key in ("status", "progress", "fault")} == {
        "status": "error_deleting",
        "progress": "40%",
        "fault": "the share is away",
    }
    assert (shown["consistency"], shown["frozen_ms"], shown["degraded_reason"], shown["set_id"]) == (
        "crash",
        12.5,
        "no agent",
        SET,
    )


def test_a_snapshot_of_a_server_that_did_not_run_is_exact_and_has_no_fault() -> None:
    shown = dict(zip(*run(osc.Show, {PATH: row("available")}, SNAPSHOT), strict=True))
    assert (shown["consistency"], shown["fault"], shown["set_id"]) == ("exact", None, None)


def test_a_deletion_that_is_waited_for_tells_how_far_it_is_and_why_it_failed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "SHORTEST_SECONDS", 0)
    delete = {f"DELETE /snapshots/{SNAPSHOT}?bandwidth_mib=7": Answer(202)}
    gone = [row("available"), row("deleting", "0%"), row("deleting", "40%"), fault(404, "gone")]
    run(osc.Delete, {**delete, PATH: gone}, "--wait", "--bandwidth", "7", SNAPSHOT)
    assert [line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines()] == ["deleting 0 %", "deleting 40 %"]
    stays = [row("available"), row("error_deleting", fault="cancelled")]
    with pytest.raises(StepFailed, match="error_deleting: cancelled"):
        run(osc.Delete, {**delete, PATH: stays}, "--wait", "--bandwidth", "7", SNAPSHOT)

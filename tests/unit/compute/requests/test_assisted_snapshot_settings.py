"""The request decides, then the server's settings, then the deployment's."""

from dataclasses import replace
from pathlib import Path

import pytest

from stillframe import config
from stillframe.compute.requests import assisted_snapshot_settings as settings_requests
from stillframe.compute.requests import snapshot_policies as policy_requests
from stillframe.compute.worker.context import WorkerContext
from stillframe.db import snapshot_policies
from stillframe.db.engine import Database
from stillframe.errors import NotFound
from tests.unit.builders import SERVER, context, new_id
from tests.unit.compute import fakes

NOTHING = {"server_id": SERVER, "quiesce": None, "allow_unfreezable": None, "hook_timeout": None}


@pytest.fixture
def worker(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerContext:
    return fakes.worker(database, tmp_path, [fakes.view(fakes.domain_xml())], monkeypatch)


def test_nothing_is_set_until_somebody_sets_it(worker: WorkerContext) -> None:
    assert settings_requests.show(worker, context(), SERVER.upper()) == NOTHING
    assert settings_requests.effective(worker, SERVER, {"volumes": "all"}) == {
        "quiesce": "preferred",
        "allow_unfreezable": [],
        "hook_timeout": 60,
    }


def test_what_is_named_changes_and_null_takes_it_back(worker: WorkerContext) -> None:
    made = settings_requests.change(worker, context(), SERVER, {"quiesce": "required", "hook_timeout": 90})
    assert made == {**NOTHING, "quiesce": "required", "hook_timeout": 90}
    changed = settings_requests.change(worker, context(), SERVER, {"hook_timeout": None, "allow_unfreezable": ["vfat"]})
    assert changed == {**NOTHING, "quiesce": "required", "allow_unfreezable": ["vfat"]}
    assert settings_requests.show(worker, context(), SERVER) == changed


def test_a_request_overrides_its_server_even_with_nothing(worker: WorkerContext) -> None:
    settings_requests.change(
        worker, context(), SERVER, {"quiesce": "required", "allow_unfreezable": ["vfat"], "hook_timeout": 5}
    )
    asked = {"quiesce": "never", "allow_unfreezable": [], "hook_timeout": 7}
    assert settings_requests.effective(worker, SERVER, asked) == asked
    assert settings_requests.effective(worker, SERVER, {"quiesce": None}) == {
        "quiesce": "required",
        "allow_unfreezable": ["vfat"],
        "hook_timeout": 5,
    }


def test_the_deployment_decides_where_nobody_else_does(database: Database, worker: WorkerContext, tmp_path: Path) -> None:
    strict = config.load(overrides={(None, "state_dir"): str(tmp_path), ("compute", "quiesce"): "required"})
    there = replace(worker, settings=strict)
    assert settings_requests.effective(there, SERVER, {})["quiesce"] == "required"
    made = policy_requests.create(there, context(), SERVER, {"keep_last": 1})
    with database.read() as connection:
        policy = snapshot_policies.get(connection, made, None)
    assert policy is not None
    assert policy["quiesce"] == "required"
    settings_requests.change(there, context(), SERVER, {"quiesce": "never"})
    assert settings_requests.effective(there, SERVER, {})["quiesce"] == "never"


def test_another_projects_server_is_not_found(worker: WorkerContext) -> None:
    for server_id, project in ((SERVER, "other"), (new_id(), "demo")):
        with pytest.raises(NotFound):
            settings_requests.change(worker, context(project=project), server_id, {"quiesce": "never"})
        with pytest.raises(NotFound):
            settings_requests.show(worker, context(project=project), server_id)
    assert settings_requests._answer(worker, SERVER) == NOTHING

"""The command line's table, and that its commands are the plugin's."""

import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from stillframe.main import shell

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]


def load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


@pytest.mark.parametrize(("name", "target"), shell.COMMANDS.items())
def test_every_command_is_there_and_explains_itself(name: str, target: str) -> None:
    command = load(target)
    assert command.__doc__, name
    assert callable(command.take_action)


def test_the_plugin_has_the_same_commands() -> None:
    entries = PROJECT["entry-points"]["openstack.assisted_snapshot.v1"]
    mine = {name.replace("-", "_").replace(" ", "_"): target for name, target in shell.COMMANDS.items()}
    assert {name: target for name, target in mine.items() if name.startswith(("assisted", "snapshot_policy"))} == entries


@pytest.mark.parametrize("group", PROJECT["entry-points"])
def test_every_entry_point_leads_somewhere(group: str) -> None:
    for target in PROJECT["entry-points"][group].values():
        assert load(target) if ":" in target else import_module(target)

"""The command line's table, and that its commands are the plugin's."""

import errno
import re
import sqlite3
import tomllib
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from stillframe.errors import NotInstalled, ServiceUnavailable, StepFailed, StillframeError
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


@pytest.mark.parametrize(("name", "target"), shell.COMMANDS.items())
def test_the_list_says_of_each_command_what_the_command_says(name: str, target: str) -> None:
    app = shell.Shell()
    listed: Any = dict(app.command_manager)[name].load()
    assert listed(app, None).get_description().split("\n")[0] == load(target).__doc__.split("\n")[0]


def test_the_plugin_has_the_same_commands() -> None:
    entries = PROJECT["entry-points"]["openstack.assisted_snapshot.v1"]
    mine = {name.replace("-", "_").replace(" ", "_"): target for name, target in shell.COMMANDS.items()}
    expected = {name: target for name, target in mine.items() if name.startswith(("assisted", "snapshot_policy"))}
    assert {**expected, "server_adopt": mine["adopt"], "server_release": mine["release"]} == entries


def test_a_command_whose_libraries_are_not_there_says_which_part_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "needs_more.py").write_text("import no_such_library\n")
    command: Any = shell._Lazy("worker", "needs_more:Worker").load()
    with pytest.raises(NotInstalled, match=r"'stillframe worker' .*stillframe\[server\]"):
        command(None, None).get_parser("stillframe worker")


def test_a_module_of_ours_that_is_not_there_is_a_defect() -> None:
    with pytest.raises(ModuleNotFoundError):
        shell._Lazy("worker", "stillframe.main.nowhere:Worker").load()


@pytest.mark.parametrize("group", PROJECT["entry-points"])
def test_every_entry_point_leads_somewhere(group: str) -> None:
    for target in PROJECT["entry-points"][group].values():
        assert load(target) if ":" in target else import_module(target)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/srv/state/x"),
            StepFailed,
            "No space left on device: '/srv/state/x'",
        ),
        (
            OperationalError("s", None, sqlite3.OperationalError("disk is full")),
            ServiceUnavailable,
            "command needs: disk is full$",
        ),
        (BrokenPipeError(), BrokenPipeError, ""),
        (NotInstalled("n"), NotInstalled, "^n"),
        (KeyError("k"), KeyError, "k"),
    ],
)
def test_what_the_system_refuses_a_command_is_told_in_our_words(error: Exception, kind: type[Exception], words: str) -> None:
    def refused(_parsed: Namespace) -> int:
        raise error

    with pytest.raises(kind) as told:
        shell._run(refused, Namespace())
    text = told.value.message if isinstance(told.value, StillframeError) else str(told.value)
    assert re.search(words, text)

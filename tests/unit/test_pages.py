"""Every command that README and the documentation show is one that exists, with options that exist."""

import argparse
import ast
import importlib.metadata
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.main.shell import COMMANDS
from stillframe.options import BACKEND_OPTS, GROUPS
from tests.functional.test_tutorial import commands, spans

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPENSTACK = ("openstack.common", "openstack.volume.v3", "openstack.compute.v2", "openstack.image.v2", "openstack.identity.v3")
PLUGIN = ("openstack.assisted_snapshot.v1", "openstack.extension")
GLOBAL = re.compile(r"--os-(cloud|volume-api-version)(=| )\S+ ")
REDIRECT = re.compile(r"\s(>|\| |<\(|&&|<TAB>|\.\.\.).*")


def shown() -> Iterator[tuple[str, str]]:
    """Every stillframe, openstack and make command, with the page it stands on."""
    for page in PAGES:
        text = page.read_text()
        for command in [*commands(text), *spans(text)]:
            plain = REDIRECT.sub("", command.replace("\\\n", " ")).partition("  #")[0].strip()
            plain = re.sub(r"^([A-Z_]+=\S+ |\S*bin/(?=stillframe))+", "", plain)
            if plain.startswith(("stillframe ", "openstack ", "make ")):
                alternatives = re.search(r"\S+\|\S+", plain)
                for one in alternatives[0].split("|") if alternatives else ("",):
                    yield str(page.relative_to(ROOT)), plain.replace(alternatives[0], one) if alternatives else plain


def known() -> dict[str, Any]:
    """Loads nothing: by program and command, what can be loaded."""
    found: dict[str, Any] = {f"stillframe {name}": target for name, target in COMMANDS.items()}
    points = importlib.metadata.entry_points()
    for group in (*OPENSTACK, *PLUGIN):
        found |= {f"openstack {point.name.replace('_', ' ')}": point for point in points.select(group=group)}
    return found


KNOWN = known()


def parser_of(name: str) -> argparse.ArgumentParser:
    target = KNOWN[name]
    if isinstance(target, str):
        module, _, attribute = target.partition(":")
        command = getattr(import_module(module), attribute)
    else:
        command = target.load()
    # Some of OpenStackClient's commands look at who calls them while they make their options.
    api = SimpleNamespace(is_network_endpoint_enabled=lambda: False, _auth_required=True)
    app = SimpleNamespace(client_manager=api, command_options=[], options=None, NAME="openstack")
    parser: argparse.ArgumentParser = command(app, None).get_parser(name)
    return parser


@pytest.mark.parametrize(("page", "command"), sorted(set(shown())))
def test_a_command_of_a_page_can_be_typed(page: str, command: str) -> None:
    words = shlex.split(GLOBAL.sub("", command))
    if words[0] == "make":
        assert re.search(rf"^{re.escape(words[1])}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"{page}: {command}"
        return
    if words[:2] in (["stillframe", "complete"], ["openstack", "complete"]):
        return  # cliff's own
    if words == ["stillframe", "--version"]:
        return  # run by tests/functional/test_install.py
    if any(each.startswith(" ".join([*words, ""])) for each in KNOWN):
        return  # what several commands begin with
    name = next((" ".join(words[:count]) for count in (5, 4, 3, 2) if " ".join(words[:count]) in KNOWN), None)
    assert name is not None, f"{page}: there is no command {command!r}"
    rest = words[len(name.split()) :]
    if rest in ([], ["--help"]):
        return
    try:
        parser_of(name).parse_args(rest)
    except SystemExit as error:
        raise AssertionError(f"{page}: {command!r} cannot be parsed") from error


def options() -> Iterator[tuple[str, str, str]]:
    """Every option of an ini block: its page, section and name."""
    for page in PAGES:
        for block in re.findall(r"```ini\n(.*?)```", page.read_text(), re.DOTALL):
            section = ""
            for line in block.splitlines():
                if heading := re.match(r"\[(\S+)\]", line):
                    section = heading[1]
                elif "=" in line:
                    yield str(page.relative_to(ROOT)), section, line.partition("=")[0].strip()


def test_an_option_of_a_page_exists() -> None:
    found = list(options())
    assert len(found) > 15
    for page, section, name in found:
        if section == "":
            assert page == "docs/how-to/nfs.md" and name == "dynamic_ownership"  # libvirt's, not ours
            continue
        group = GROUPS.get(None if section == "DEFAULT" else section, BACKEND_OPTS)
        assert name in {option.dest for option in group}, f"{page}: [{section}] has no option {name}"


def test_there_are_pages_and_commands_to_look_at() -> None:
    assert len({page for page, _ in shown()}) > 8
    assert len(set(shown())) > 60


def _sets_status(node: ast.keyword | ast.Assign) -> bool:
    if isinstance(node, ast.keyword):
        return node.arg == "status"
    return any(isinstance(each, ast.Name) and each.id == "status" for each in node.targets)


def _statuses() -> set[str]:
    """Every status that a row is given: ``move(..., "x")``, ``status="x"`` and what ``status`` is set to on the way there."""
    found: set[str] = set()
    for path in sorted((ROOT / "src/stillframe").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            values: list[ast.expr] = []
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "move":
                values = node.args[3:4]
            elif isinstance(node, ast.keyword | ast.Assign) and _sets_status(node):
                values = [node.value]
            for value in values:
                ends = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
                found |= {each.value for each in ends if isinstance(each, ast.Constant) and isinstance(each.value, str)}
    return found


def test_every_status_is_on_the_page_about_what_is_stuck() -> None:
    told = set(re.findall(r"^\| `([a-z_-]+)`", (ROOT / "docs/how-to/stuck.md").read_text(), re.MULTILINE))
    known = _statuses() - {"attached", "cancelled"}  # of an attachment, and of a merge that is asked about
    assert len(known) > 12
    assert known - told == set()
    assert {"pending", "running", "undoing", "done", "undone", "parked"} <= told


def test_the_table_of_versions_names_the_pinned_ones() -> None:
    page = (ROOT / "docs/reference/versions.md").read_text()
    pinned: dict[str, str] = {}
    for name in ("dev", "openstack"):
        text = (ROOT / f"requirements/{name}.txt").read_text()
        pinned |= dict(re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==([\w.]+)", text, re.MULTILINE))
    wanted = {"OpenStackClient": "python-openstackclient"}
    for row in ("libvirt-python", "Keystone", "Glance", "OpenStackClient", "openstacksdk"):
        name = wanted.get(row, row.lower())
        assert re.search(rf"^\| {row} \| {re.escape(pinned[name])}\b", page, re.MULTILINE), f"{row} is {pinned[name]}"
    assert f"moto {pinned['moto']} with boto3 {pinned['boto3']}" in page
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text() and "| 3.10 and older |" in page

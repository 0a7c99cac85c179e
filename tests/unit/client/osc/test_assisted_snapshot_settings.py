"""The commands about a server's settings: what they ask for and the columns they show."""

import argparse
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.client.osc import assisted_snapshot_settings as osc
from stillframe.errors import BadRequest
from tests.unit.builders import SERVER

FOUND = {"server_id": SERVER, "quiesce": None, "allow_unfreezable": ["vfat"], "hook_timeout": 90}
PATH = "/servers/id of web/os-assisted-snapshot-settings"


class ApiContext:
    def __init__(self) -> None:
        self.asked: list[Any] = []

    def find_server(self, name: str) -> str:
        return f"id of {name}"

    def compute(self, method: str, path: str, body: Any = None) -> Any:
        self.asked.append((method, path, body))
        return {"assisted_snapshot_settings": FOUND}


def run(command: Any, client: ApiContext, *arguments: str) -> Any:
    app = SimpleNamespace(client_manager=SimpleNamespace(assisted_snapshot=client))
    made = command(app, argparse.Namespace())
    names, values = made.take_action(made.get_parser("test").parse_args(list(arguments)))
    return dict(zip(names, values, strict=True))


def test_they_are_shown() -> None:
    client = ApiContext()
    assert run(osc.Show, client, "web") == FOUND
    assert client.asked == [("GET", PATH, None)]


def test_what_is_named_is_changed_or_taken_back() -> None:
    client = ApiContext()
    options = ["--quiesce", "required", "--allow-unfreezable", "vfat", "--default", "hook-timeout"]
    assert run(osc.Set, client, *options, "web") == FOUND
    wanted = {"quiesce": "required", "allow_unfreezable": ["vfat"], "hook_timeout": None}
    assert client.asked == [("PUT", PATH, {"assisted_snapshot_settings": wanted})]


def test_a_change_of_nothing_is_refused() -> None:
    client = ApiContext()
    with pytest.raises(BadRequest, match="nothing to change"):
        run(osc.Set, client, "web")
    assert client.asked == []

"""Sphinx configuration, and the tables that are made from the code so that they cannot drift from it."""

import os
from collections.abc import Sequence
from importlib import import_module
from types import SimpleNamespace

os.environ["COLUMNS"] = "100"

from oslo_policy.policy import RuleDefault

from stillframe import __version__, errors
from stillframe.compute import policies as compute_policies
from stillframe.compute.api import routes as compute_routes
from stillframe.main.shell import COMMANDS
from stillframe.volumes import policies as volumes_policies
from stillframe.volumes.api import routes as volumes_routes
from stillframe.web.faults import NAMES
from stillframe.web.route import Service

project = "Stillframe"
project_copyright = "Stillframe contributors"
author = "Stillframe contributors"
release = version = __version__

extensions = ["myst_parser"]
myst_enable_extensions = ["substitution", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"Stillframe {version}"
html_show_sphinx = False


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _errors() -> str:
    """Every error kind, by HTTP status."""
    kinds = sorted(errors.catalogue().values(), key=lambda kind: (kind.status, kind.code))
    rows = [
        (
            f"`{kind.code}`",
            str(kind.status),
            f"`{NAMES.get(kind.status, 'computeFault')}`",
            "yes" if kind.may_retry else "no",
            kind.hint,
        )
        for kind in kinds
    ]
    return _table(("Code", "HTTP", "Fault", "Retried", "Hint"), rows)


def _routes(service: Service, rules: Sequence[RuleDefault]) -> str:
    """Every route of a service, with the roles its policy rule names."""
    roles = {rule.name: str(rule.check_str).replace("role:", "").replace(" or ", ", ") for rule in rules}
    rows = [
        (
            f"`{route.method} {route.path}`" + (f" `{route.action}`" if route.action else ""),
            str(route.status),
            ".".join(map(str, route.since)) if any(route.since) else "",
            roles[route.policy],
        )
        for route in service.routes
    ]
    return _table(("Call", "Answer", "Since", "Roles"), rows)


def _commands() -> str:
    """The help of every command, without the output formatters' part, which is the same everywhere."""
    parts = []
    for name, target in COMMANDS.items():
        module, _, attribute = target.partition(":")
        command = getattr(import_module(module), attribute)(SimpleNamespace(), None)
        text = command.get_parser(f"stillframe {name}").format_help().split("output formatters:")[0]
        parts.append(f"## stillframe {name}\n\n```text\n{text.strip()}\n```")
    return "\n\n".join(parts)


myst_substitutions = {
    "errors": _errors(),
    "volumes_routes": _routes(volumes_routes.SERVICE, volumes_policies.RULES),
    "compute_routes": _routes(compute_routes.SERVICE, compute_policies.RULES),
    "commands": _commands(),
}

"""The command line: ``stillframe serve`` and what operators and users type beside it."""

import ast
import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from cliff.app import App
from cliff.command import Command
from cliff.commandmanager import CommandManager

import stillframe
from stillframe import __version__
from stillframe.errors import NotInstalled, ServiceUnavailable, StepFailed
from stillframe.main import streams
from stillframe.printable.output import Terminal

COMMANDS = {
    "serve": "stillframe.main.services:Serve",
    "api": "stillframe.main.services:Api",
    "worker": "stillframe.main.services:Worker",
    "operation list": "stillframe.main.operations:List",
    "operation show": "stillframe.main.operations:Show",
    "operation retry": "stillframe.main.operations:Retry",
    "operation abandon": "stillframe.main.abandoning:Abandon",
    "database upgrade": "stillframe.main.database:Upgrade",
    "database show": "stillframe.main.database:Show",
    "volume forget": "stillframe.main.forgetting:Forget",
    "doctor": "stillframe.main.doctor:Doctor",
    "rebuild": "stillframe.main.rebuild:Rebuild",
    "manage-share": "stillframe.main.rebuild:ManageShare",
    "adopt": "stillframe.client.osc.adopted_disk:Adopt",
    "release": "stillframe.client.osc.adopted_disk:Release",
    "chain show": "stillframe.client.osc.chain:Show",
    "snapshot show": "stillframe.client.osc.snapshot:Show",
    "snapshot explain": "stillframe.client.osc.snapshot:Explain",
    "snapshot delete": "stillframe.client.osc.snapshot:Delete",
    "backup explain create": "stillframe.client.osc.backup:ExplainCreate",
    "backup explain restore": "stillframe.client.osc.backup:ExplainRestore",
    "backup explain delete": "stillframe.client.osc.backup:ExplainDelete",
    "snapshot cancel": "stillframe.client.osc.snapshot:Cancel",
    "assisted-snapshot create": "stillframe.client.osc.assisted_snapshot:Create",
    "assisted-snapshot list": "stillframe.client.osc.assisted_snapshot:List",
    "assisted-snapshot show": "stillframe.client.osc.assisted_snapshot:Show",
    "assisted-snapshot set": "stillframe.client.osc.assisted_snapshot:Set",
    "assisted-snapshot explain": "stillframe.client.osc.assisted_snapshot:Explain",
    "assisted-snapshot delete": "stillframe.client.osc.assisted_snapshot:Delete",
    "assisted-snapshot settings show": "stillframe.client.osc.assisted_snapshot_settings:Show",
    "assisted-snapshot settings set": "stillframe.client.osc.assisted_snapshot_settings:Set",
    "snapshot-policy create": "stillframe.client.osc.snapshot_policy:Create",
    "snapshot-policy list": "stillframe.client.osc.snapshot_policy:List",
    "snapshot-policy show": "stillframe.client.osc.snapshot_policy:Show",
    "snapshot-policy set": "stillframe.client.osc.snapshot_policy:Set",
    "snapshot-policy delete": "stillframe.client.osc.snapshot_policy:Delete",
}


_OF_SERVICES = "sqlalchemy"  # a library that is there where the services are


class _Absent(Command):
    """Not installed here: it is a part of the services"""

    def get_parser(self, prog_name: str) -> ArgumentParser:
        """Adds what several commands share."""
        raise NotInstalled(
            f"'{prog_name}' is a part of the services, which are not installed: pip install 'stillframe[server]'"
        )

    def take_action(self, parsed_args: Namespace) -> None:
        """Carries the command out and prints what came of it. Raises what the service answers."""
        raise AssertionError


class _Lazy:
    """An entry point's two methods over a dotted name. A command's module is imported only when the command is used."""

    def __init__(self, name: str, target: str) -> None:
        self.name = name
        self._target = target

    def load(self) -> type[Command]:
        module, _, attribute = self._target.partition(":")
        try:
            found: type[Command] = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] == "stillframe":
                raise
            return _Absent
        return found


class _Listed(_Lazy):
    """As ``_Lazy``, for the list of commands, which shows the first line of each one's docstring. That is read from the text of
    its module: to import them all takes a second."""

    def load(self) -> type[Command]:
        module, _, name = self._target.partition(":")
        if module.startswith("stillframe.main.") and find_spec(_OF_SERVICES) is None:
            return _Absent
        tree = ast.parse((Path(stillframe.__path__[0], *module.split(".")[1:])).with_suffix(".py").read_text())
        found = next(each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == name)
        return type(name, (_Absent,), {"__doc__": ast.get_docstring(found)})


class _Commands(CommandManager):
    """Commands by name. Only lists of them iterate."""

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        listed = {name: _Listed(name, target) for name, target in COMMANDS.items()}
        return iter({**self.commands, **listed}.items())


class Shell(App):
    """The stand-alone command line. Its assisted-snapshot commands are the classes of the OpenStackClient plugin."""

    def __init__(self) -> None:
        manager = _Commands("stillframe.cli")
        for name, target in COMMANDS.items():
            manager.commands[name] = cast("Any", _Lazy(name, target))
        streams: Any = {"stdout": Terminal(sys.stdout), "stderr": Terminal(sys.stderr)}
        super().__init__("Stillframe", __version__, manager, deferred_help=True, **streams)

    def build_option_parser(self, description: str | None, version: str | None, argparse_kwargs: Any = None) -> Any:
        parser = super().build_option_parser(description, version, argparse_kwargs)
        parser.add_argument("--os-cloud", metavar="NAME", help="Cloud of clouds.yaml to use (default: stillframe)")
        return parser

    def prepare_to_run_command(self, cmd: Command) -> None:
        """What the operating system or the database refuses a command is told in our words.

        cliff's own epilog (4.17) is left out: it reads about every installed package to find out whose plugin the command is,
        which takes a fifth of the time of a list, and a tenth of a service's start."""
        vars(cmd).update(run=partial(_run, cmd.run), get_epilog=str)

    def configure_logging(self) -> None:
        """Does nothing: services set up their own logging, and commands for people print errors, not log lines."""
        root = logging.getLogger("")
        root.setLevel(logging.WARNING)
        if not root.handlers:
            root.addHandler(logging.StreamHandler(self.stderr))

    @property
    def client_manager(self) -> Any:
        from stillframe.client.osc.plugin import StandAlone

        return StandAlone(self.options.os_cloud)


def _run(run: Callable[[Namespace], int], parsed: Namespace) -> int:
    try:
        return run(parsed)
    except BrokenPipeError:  # whoever read what is printed has gone
        raise
    except OSError as error:
        raise StepFailed(f"the operating system refuses what this command needs: {error}") from error
    except Exception as error:
        if type(error).__module__ != "sqlalchemy.exc":  # which is not installed where only the commands for users are
            raise
        raise ServiceUnavailable(f"the database refuses what this command needs: {getattr(error, 'orig', error)}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    streams.complete()
    return int(Shell().run(list(sys.argv[1:] if arguments is None else arguments)))


if __name__ == "__main__":
    sys.exit(main())

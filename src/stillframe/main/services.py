"""``stillframe serve``, ``api`` and ``worker``."""

import argparse
from typing import Any

from cliff.command import Command

from stillframe import config
from stillframe.config import Settings
from stillframe.main import log, parts


class _Service(Command):
    """The options that every service has."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``--config-file``, ``--state-dir``, ``--volumes-port``, ``--compute-port``, ``--libvirt-uri`` and
        ``--log-json``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("--config-file", action="append", default=[], metavar="FILE", help="may be repeated")
        parser.add_argument("--state-dir", metavar="DIR", help="database, credentials, sockets, freeze records")
        parser.add_argument("--volumes-port", type=int, metavar="PORT", help="port of block storage (default 8776)")
        parser.add_argument("--compute-port", type=int, metavar="PORT", help="port of compute (default 8774)")
        parser.add_argument("--libvirt-uri", metavar="URI", help="libvirt to use (default: a private daemon)")
        parser.add_argument("--log-json", action="store_true", default=None, help="log lines as JSON")
        return parser

    def settings(self, parsed: argparse.Namespace, service: str | None = None) -> Settings:
        overrides: dict[tuple[str | None, str], Any] = {
            (None, "state_dir"): parsed.state_dir,
            ("volumes", "port"): parsed.volumes_port,
            ("compute", "port"): parsed.compute_port,
            ("compute", "libvirt_uri"): parsed.libvirt_uri,
            ("log", "json"): parsed.log_json,
        }
        loaded = config.load(parsed.config_file, overrides, service)
        log.set_up(loaded.log_json)
        return loaded

    def say(self, *words: str) -> None:
        self.app.stdout.write(" ".join(words) + "\n")
        self.app.stdout.flush()


class Serve(_Service):
    """Run both REST services and both workers in one process"""

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Carries the command out and prints what came of it. Raises what the service answers."""
        settings = self.settings(parsed_args)

        def ready(volumes_url: str, compute_url: str) -> None:
            self.say("ready", f"volumes={volumes_url}", f"compute={compute_url}", f"clouds={settings.clouds_file}")

        parts.serve(settings, ready)


class _Part(_Service):
    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``SERVICE``."""
        parser = super().get_parser(prog_name)
        parser.add_argument("service", choices=("volumes", "compute"))
        return parser


class Api(_Part):
    """Run one REST service; its worker runs apart, over the same state directory"""

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Carries the command out and prints what came of it. Raises what the service answers."""
        parts.serve_api(
            self.settings(parsed_args, parsed_args.service), parsed_args.service, lambda where: self.say("ready", where)
        )


class Worker(_Part):
    """Run one worker; its REST service runs apart, over the same state directory"""

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Carries the command out and prints what came of it. Raises what the service answers."""
        parts.serve_worker(
            self.settings(parsed_args, parsed_args.service), parsed_args.service, lambda where: self.say("ready", where)
        )

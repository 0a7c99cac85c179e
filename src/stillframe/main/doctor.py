"""``stillframe doctor``: what does not fit together on the shares, in the database and in libvirt, and what can be done about
it."""

import argparse
import json
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cliff.command import Command
from sqlalchemy.exc import SQLAlchemyError

from stillframe import config
from stillframe.config import Settings
from stillframe.db import adopted_disks
from stillframe.db.engine import Database
from stillframe.errors import StillframeError
from stillframe.main import guests_seen, state
from stillframe.main.existing import open_current
from stillframe.volumes.recovery.doctor import judging, looking, mending, repairs, telling, undo_log
from stillframe.volumes.recovery.doctor.findings import Finding
from stillframe.volumes.recovery.doctor.looking import Options
from stillframe.volumes.recovery.doctor.mending import Mended, Place
from stillframe.volumes.recovery.doctor.repairs import Plan
from stillframe.volumes.recovery.doctor.seen import WorkerContext
from stillframe.volumes.recovery.doctor.undo_log import UndoLog

NOTHING, FOUND, BLIND = 0, 1, 2


class Doctor(Command):
    """Look for what does not fit between shares, database and libvirt; with --fix repair what is proven safe

    Works while the services run and while they do not. Ends with 0 when nothing was found, 1 when something was (with
    --fix: is left), 2 when something could not be examined.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``--config-file``, ``--state-dir``, ``--fix``, ``--yes``, ``--undo``, ``--line``, ``--quick``, ``--older-than``
        and ``--format``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("--config-file", action="append", default=[], metavar="FILE", help="may be repeated")
        parser.add_argument("--state-dir", metavar="DIR")
        parser.add_argument("--fix", action="store_true", help="show what would be repaired, ask, then repair it")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        parser.add_argument("--undo", metavar="LOG", help="reverse what an earlier --fix wrote into this log")
        parser.add_argument("--line", type=int, metavar="N", help="with --undo: only the line with that number")
        parser.add_argument("--quick", action="store_true", help="headers only: do not let qemu-img check every file")
        parser.add_argument(
            "--older-than",
            type=float,
            default=3600.0,
            metavar="SECONDS",
            help="age in seconds from which a leftover counts (default: an hour)",
        )
        parser.add_argument("-f", "--format", choices=("text", "json"), default="text")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Carries the command out; returns its exit code."""
        try:
            settings = config.load(parsed_args.config_file, {(None, "state_dir"): parsed_args.state_dir})
            database = open_current(settings)
            try:
                if parsed_args.undo:
                    return self._undo(settings, database, Path(parsed_args.undo), parsed_args)
                return self._examine(settings, database, parsed_args)
            finally:
                database.close()
        except (StillframeError, SQLAlchemyError) as error:
            message = str(error) if isinstance(error, StillframeError) else f"the database cannot be read: {error}"
            self._complain(message)
            return BLIND

    def _examine(self, settings: Settings, database: Database, parsed: argparse.Namespace) -> int:
        options = Options(parsed.older_than, not parsed.quick)
        worker, findings = _look(settings, database, options)
        plan = repairs.plan(worker, findings) if parsed.fix else None
        answer = telling.document(worker, findings, plan)
        self._tell(telling.text(worker, findings, _width()), parsed)
        if plan is not None:
            self._tell(telling.plan_text(plan, _width()), parsed)
            if plan.repairs and self._agreed(parsed):
                answer |= self._mend(settings, database, plan, parsed)
                worker, findings = _look(settings, database, options)
                answer["left"] = [finding.document() for finding in findings]
                self._tell(f"{len(findings)} findings are left.", parsed)
        if parsed.format == "json":
            self._say(json.dumps(answer, indent=1))
        return BLIND if worker.troubles else FOUND if findings else NOTHING

    def _mend(self, settings: Settings, database: Database, plan: Plan, parsed: argparse.Namespace) -> dict[str, Any]:
        """Examines everything once more, because the answer may have taken long, and does what both plans say."""
        worker, findings = _look(settings, database, Options(parsed.older_than, not parsed.quick))
        fresh = repairs.plan(worker, findings)
        wanted = {repair.key for repair in plan.repairs}
        agreed = Plan([repair for repair in fresh.repairs if repair.key in wanted], ())
        path = state.secure(settings) / f"doctor-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.undo.jsonl"
        done = []
        for mended in mending.mend(Place(database, settings, worker), agreed, UndoLog(path)):
            self._tell(_ended(mended), parsed)
            done.append({"does": mended.repair.says, "file": mended.repair.finding.file, "trouble": mended.trouble})
        log = str(path) if path.exists() else None
        if log:
            self._tell(f"What was done, and how to reverse it, is in {log}", parsed)
        return {"repaired": done, "undo_log": log}

    def _undo(self, settings: Settings, database: Database, path: Path, parsed: argparse.Namespace) -> int:
        lines = undo_log.read(path, parsed.line)
        self._tell("\n".join(["To be reversed:", *(f"   {line['n']}. {line['did']}" for line in lines)]), parsed)
        outcomes = list(undo_log.undo(settings, database, path, parsed.line)) if lines and self._agreed(parsed) else []
        for undone in outcomes:
            self._tell(f"   {undone.line['n']}. {undone.trouble or 'reversed'}", parsed)
        if parsed.format == "json":
            self._say(
                json.dumps([{"n": each.line["n"], "did": each.line["did"], "trouble": each.trouble} for each in outcomes])
            )
        return FOUND if any(each.trouble and each.line["reverse"] for each in outcomes) else NOTHING

    def _agreed(self, parsed: argparse.Namespace) -> bool:
        if parsed.yes:
            return True
        if parsed.format == "json" or not sys.stdin.isatty():
            self._complain("nothing was done, because there is nobody to ask: repeat with --yes")
            return False
        return input("Do this? [y/N] ").strip().lower() in ("y", "yes")

    def _tell(self, words: str, parsed: argparse.Namespace) -> None:
        if parsed.format == "text":
            self._say(words)

    def _say(self, words: str) -> None:
        self.app.stdout.write(words + "\n")

    def _complain(self, words: str) -> None:
        self.app.stderr.write(words + "\n")


def _look(settings: Settings, database: Database, options: Options) -> tuple[WorkerContext, list[Finding]]:
    with database.read() as connection:
        adopted = adopted_disks.by_server(connection)
    worker = looking.look(settings, database, lambda busy: guests_seen.look(settings, busy, adopted), options)
    return worker, judging.judge(worker)


def _ended(mended: Mended) -> str:
    return f"   {'done' if mended.trouble is None else 'NOT done'}: {mended.repair.says}" + (
        f": {mended.trouble}" if mended.trouble else ""
    )


def _width() -> int:
    return min(shutil.get_terminal_size((120, 24)).columns, 140)

"""Stops many operations, each at a place of its own, in one process, and kills that once; the next process ends them all."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from stillframe.db import operations
from stillframe.db.rows import OperationRow
from stillframe.db.tables import backups, snapshots, volumes
from tests.crash.places import everywhere, of_kind
from tests.crash.scenarios import SCENARIOS, Run
from tests.crash.stage import Stage, backed_up, duplicate
from tests.support import sound
from tests.support.qcow2_content import filled
from tests.support.stack import Api, wait_for

AT_ONCE = 56  # fewer than the 64 threads a share has, so that the other operations continue meanwhile
_HELD = re.compile(r"held at ([^\s:]+):hold")


def runs() -> Iterator[Run]:
    """Every scenario at every place."""
    for scenario in SCENARIOS:
        for number, place in enumerate(everywhere(scenario.sample)):
            yield Run(scenario, place, number)


@dataclass
class Campaign:
    stage: Stage
    runs: Sequence[Run]
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)  # volumes, snapshots and backups by id, at the end
    journal: list[OperationRow] = field(default_factory=list)

    def run_all(self) -> None:
        """Runs all of it."""
        self._prepare()
        for first in range(0, len(self.runs), AT_ONCE):
            self._wave(self.runs[first : first + AT_ONCE])
        self._end()

    def _prepare(self) -> None:
        scenarios = [scenario for scenario in SCENARIOS if any(run.scenario == scenario for run in self.runs)]
        templates = [scenario.arrange(self.stage) for scenario in scenarios]
        self.stage.settle()
        self.stage.lab.stack.kill()
        self.stage.lab.stack.start()
        wait_for(self._is_tidy, "the end of what housekeeping does", 60)
        self.stage.lab.stack.kill()
        for scenario, template in zip(scenarios, templates, strict=True):
            mine = [run for run in self.runs if run.scenario == scenario]
            for run, copy in zip(mine, duplicate(self.stage, template, len(mine)), strict=True):
                run.copy = copy

    def _wave(self, wave: Sequence[Run]) -> None:
        stack = self.stage.lab.stack
        for run in wave:
            run.scenario.prepare(self.stage, run.copy)
        said = len(stack.log.read_text())
        stack.start(",".join(run.place.failpoint(run.about, ":hold") for run in wave))
        member, admin = stack.api(), stack.api("stillframe-admin")
        for run in wave:
            self._ask(admin if run.scenario.admin else member, run)
        asked = {f"{run.place}@{run.about}": run for run in wave if not run.problem}

        def left() -> set[str]:
            return asked.keys() - set(_HELD.findall(stack.log.read_text()[said:]))

        def still() -> bool:
            time.sleep(0.2)
            if left():
                self.journal = self._journal()
            return self._others_have_ended(wave) and all(self._is_over(asked[name]) for name in left())

        with suppress(AssertionError):  # the test of an operation that did not reach its place reports it
            wait_for(still, "the places", 180)
        for name in left():
            asked[name].problem = "the place was not reached"
        stack.kill()

    def _ask(self, api: Api, run: Run) -> None:
        answer: list[object] = []

        def accepted() -> bool:
            try:
                answer.append(run.scenario.ask(api, run))
            except AssertionError as error:  # something is under way on it: what is written beside the files, for instance
                if ": 409 " not in str(error):
                    raise
                return False
            return True

        try:
            wait_for(accepted, "the request's acceptance")
            run.made = answer[0] if isinstance(answer[0], str) else ""
        except AssertionError as error:
            run.problem = f"it could not be asked for: {error}"

    def _others_have_ended(self, wave: Sequence[Run]) -> bool:
        with self.stage.worker.database.read() as connection:
            rows = operations.unfinished(connection, "volumes")
        words = [f"{row['intent']} {row['plan']}" for row in rows if row["state"] != "parked"]
        return all(any(run.about in text for run in wave) for text in words)

    def _is_tidy(self) -> bool:
        rows = self.stage.rows(volumes).values()
        return self._others_have_ended([]) and not [
            row for row in rows if row["needs_cleanup"] and row["status"] == "available"
        ]

    def _is_over(self, run: Run) -> bool:
        found = self._operation(run)
        return found is not None and found["state"] in ("done", "undone", "parked")

    def _journal(self) -> list[OperationRow]:
        """Every operation, the oldest first."""
        with self.stage.worker.database.read() as connection:
            return operations.newest(connection, 1 << 20)[::-1]

    def _end(self) -> None:
        """Starts a last process, which cleans up what was left when it starts."""
        for settled in (lambda: self._others_have_ended([]), self._is_tidy):
            self.stage.lab.stack.start()
            with suppress(AssertionError):  # its own test reports an operation that does not end
                wait_for(settled, "the end of all operations", 180)
            self.stage.lab.stack.kill()
        for table in (volumes, snapshots, backups):
            self.rows |= self.stage.rows(table)
        self.journal = self._journal()

    # what there is in the end

    def check(self, run: Run) -> None:
        """Fails unless the operation ended as its direction says, and everything it touched reads as it must."""
        assert not run.problem, run.problem
        operation = self._operation(run)
        assert operation is not None
        real = [each["key"] for each in operation["plan"]]
        assert of_kind(run.scenario.sample, real), f"the real plan has {real}"
        assert operation["state"] == ("undone" if run.place.back else "done"), operation["fault"]
        model = run.scenario.after(run)
        for each, content in model.content.items():
            assert self._read(each) == content, f"{each} of {run.copy.ids}, made {run.made}"
        gone = {each for each in run.copy.content if each not in model.content}
        assert not gone & set(self.rows), "what should be gone is there"
        for each in model.failed:
            assert self.rows[each]["status"] == "error"
            left = [path.name for path in self.stage.share.rglob("*") if each in path.name]
            assert not left, left
        for name, content in model.files.items():
            assert filled(self.stage.share, name) == content
        sound.check_volumes(self.stage.worker, [each for each in model.content if _is_volume(self.rows[each])])
        run.scenario.look(self.stage, run, model)

    def _operation(self, run: Run) -> OperationRow | None:
        """The first one that was asked for: housekeeping may have asked again."""
        named = (row for row in self.journal if row["kind"] == run.place.kind)
        return next((row for row in named if run.about in f"{row['intent']} {row['plan']}"), None)

    def _read(self, each: str) -> dict[int, int]:
        row = self.rows[each]
        assert row["status"] == "available", row
        if "stored_id" in row:
            return dict(backed_up(self.stage, each, row["volume_id"]))
        return filled(self.stage.share, row["active_file"] if _is_volume(row) else row["backing"])

    def check_share(self) -> None:
        """Tells whether nothing is left over."""
        allowed = {name for run in self.runs if not run.problem for name in run.scenario.after(run).files}
        sound.check(self.stage.worker, allowed)


def _is_volume(row: dict[str, Any]) -> bool:
    return "active_file" in row

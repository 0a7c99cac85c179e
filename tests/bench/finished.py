"""What a million operations that have ended cost those that look at the journal: the same as none."""

import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from stillframe.db import finished, operations
from stillframe.db.engine import Database
from stillframe.db.migrations import upgrade
from stillframe.journal import record
from stillframe.journal.record import Request
from stillframe.journal.typed import Intent
from stillframe.web import observe
from tests.bench.recording import Document, Goal, Section

MILLION = 1_000_000
WAITING = 20  # operations that have not ended
LIMIT = 2.0  # times as long as with none; noise of a machine that does other things too
_ENDED = text(
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)"
    " INSERT INTO operations (id, service, kind, state, intent, plan, step, evidence, epoch, lease_until, attempts, bytes,"
    " request_id, created_at, project_id, cancel_asked, unneeded_since)"
    " SELECT printf('00000000-0000-4000-8000-%012d', i), 'volumes', 'create_snapshot', 'done', '{}', '[]', 3, '{}', 1, 0.0, 0,"
    " 0, 'req', :day, printf('project-%d', i % 20), 0, :day FROM n"
)
_HELD = text(
    "INSERT INTO operation_resources (operation_id, resource, unfinished, shared)"
    " SELECT id, printf('volume:%d', seq % 100), 0, 0 FROM operations WHERE state = 'done'"
)
_COUNTED = text("INSERT INTO operation_totals VALUES ('volumes', 'create_snapshot', 'done', :count, 0)")


def _measure(quick: bool) -> Document:
    count, rounds = (MILLION // 100, 20) if quick else (MILLION, 200)
    with tempfile.TemporaryDirectory(prefix="stillframe-bench-") as name:
        database = Database(f"sqlite:///{Path(name) / 'stillframe.sqlite'}")
        upgrade(database)
        with database.write() as connection:
            for number in range(WAITING):
                request = Request("volumes", "create_snapshot", Intent(), [], [f"volume:{number}"], "req", pause=1800.0)
                record.submit(connection, request.of(f"project-{number}"))
        none = _times(database, rounds)
        with database.write() as connection:
            day = datetime(2026, 1, 1).isoformat(" ")
            connection.execute(_ENDED, {"count": count, "day": day})
            connection.execute(_HELD)
            connection.execute(_COUNTED, {"count": count})
        many = _times(database, rounds)
        database.close()
    return {"count": count, "rounds": rounds, "none_ms": none, "many_ms": many}


def _times(database: Database, rounds: int) -> dict[str, float]:
    """Medians in milliseconds."""
    asks: dict[str, Callable[[Connection], Any]] = {
        "figures of /metrics": finished.totals,
        "look for work": lambda connection: operations.claimable(connection, "volumes"),
        "operation list": lambda connection: operations.unfinished(connection, "volumes"),
        "operation list --all": lambda connection: operations.newest(connection, 100),
        "is a volume busy": lambda connection: operations.on_resource(connection, "volume:7"),
        "what people abandoned": operations.abandoned,
    }
    found = {name: _median(database, ask, rounds) for name, ask in asks.items()}
    page: Any = observe.metrics_page(database)
    answer: Any = type("Answer", (), {})()
    samples = []
    for _ in range(rounds):
        began = time.monotonic()
        page(None, answer)
        samples.append((time.monotonic() - began) * 1000)
    return {**found, "page /metrics": statistics.median(samples)}


def _median(database: Database, ask: Callable[[Connection], Any], rounds: int) -> float:
    samples = []
    for _ in range(rounds):
        with database.read() as connection:
            began = time.monotonic()
            ask(connection)
            samples.append((time.monotonic() - began) * 1000)
    return statistics.median(samples)


def _show(found: Document) -> list[str]:
    lines = [
        f"Medians of {found['rounds']} in milliseconds, SQLite, {WAITING} operations that have not ended, without and with"
        f" {found['count']:,} that have.",
        "",
        "| | with none | with all | ratio |",
        "|---|---|---|---|",
    ]
    for name, none in found["none_ms"].items():
        many = found["many_ms"][name]
        lines.append(f"| {name} | {none:.2f} | {many:.2f} | {many / none:.2f} |")
    return lines


def _goals(found: Document) -> list[Goal]:
    # "--all" shows the newest hundred: with none there are none to show.
    compared = {name: none for name, none in found["none_ms"].items() if name != "operation list --all"}
    worst = max(found["many_ms"][name] / none for name, none in compared.items())
    return [Goal(f"with {found['count']:,} finished operations against none, the worst", worst, LIMIT, " times")]


SECTION = Section("finished", "Operations that have ended", _measure, _show, _goals)

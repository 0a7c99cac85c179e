"""``stillframe serve`` over PostgreSQL and MariaDB: it changes no tables by itself, works, and ends when others change them."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillframe.db.engine import Database
from tests.engines.test_schema import NAMES
from tests.support.database_server import Server
from tests.support.service import PROGRAM
from tests.support.stack import Stack, wait_for


@pytest.fixture
def url(server: Server) -> str:
    return server.create(next(NAMES))


@pytest.fixture
def stack(url: str, tmp_path: Path) -> Iterator[Stack]:
    config = tmp_path / "stillframe.conf"
    config.write_text(f"[DEFAULT]\ndatabase = {url}\n")
    made = Stack(tmp_path / "state", ["--config-file", str(config)])
    try:
        yield made
    finally:
        made.kill()
        made.destroy()


def database(stack: Stack, command: str) -> str:
    """``stillframe database COMMAND`` over the same configuration; returns what it prints."""
    over = ["--config-file", str(stack.state_dir.parent / "stillframe.conf"), "--state-dir", str(stack.state_dir)]
    done = subprocess.run([*PROGRAM, "database", command, *over], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout


def test_it_runs_over_tables_that_somebody_made_and_ends_when_they_become_others(stack: Stack, url: str) -> None:
    with pytest.raises(AssertionError, match="has no tables yet"):
        stack.start()
    stack.kill()
    assert "(it had no tables)" in database(stack, "upgrade")
    assert "(unchanged)" in database(stack, "upgrade")
    stack.start()
    api = stack.api()
    volume_id = api.create_volume("one")
    body = {"snapshot": {"volume_id": volume_id, "name": "before"}}
    snapshot_id = api.ok("volume", "POST", "/snapshots", body)["snapshot"]["id"]
    wait_for(lambda: api.snapshot(snapshot_id)["status"] == "available", "the snapshot")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        database(stack, "upgrade")
    assert "is already run by process" in refused.value.stderr
    opened = Database(url)
    with opened.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    opened.close()
    wait_for(lambda: not stack.running, "the end of the service", 60)
    assert "this service ends: the database is at schema 9999, which this release does not know" in stack.log.read_text()
    assert "9999" in database(stack, "show")

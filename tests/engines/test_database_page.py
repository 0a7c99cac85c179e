"""The commands of docs/how-to/database.md do what the page says: what was copied is there again."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stillframe.db import migrations, volumes
from stillframe.db.engine import Database
from stillframe.db.migrations import upgrade
from tests.functional.test_tutorial import commands
from tests.support.database_server import Server
from tests.unit import builders

PAGE = (Path(__file__).parents[2] / "docs/how-to/database.md").read_text()
NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}


def commands_of(heading: str, kind: str) -> list[str]:
    """The commands of a section that are for one kind of database."""
    section = next(part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE) if part.startswith(heading))
    (block,) = re.findall(rf"^[^`#]*{NAMES[kind]}[^`]*:\n\n(```console\n.*?```)", section, re.DOTALL | re.MULTILINE)[-1:]
    return list(commands(block))


def run(lines: list[str], directory: Path, more: dict[str, str] | None = None) -> None:
    """Types them, with the paths of a machine moved into a directory."""
    for line in lines:
        typed = line.replace("/var/lib/stillframe", str(directory / "state")).replace("/root/", f"{directory}/")
        typed = typed.replace("/opt/stillframe/bin/python", sys.executable)
        done = subprocess.run(
            ["bash", "-c", typed], env={**os.environ, **(more or {})}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{typed}: {done.stderr}"


def fill(url: str) -> None:
    database = Database(url)
    upgrade(database)
    with database.write() as connection:
        builders.volume_row(connection, name="kept: \u00e9\U0001f4be")
    database.close()


def check(url: str) -> None:
    database = Database(url)
    migrations.check(database)
    with database.read() as connection:
        assert [row["name"] for row in volumes.list_all(connection)] == ["kept: \u00e9\U0001f4be"]
    with database.write() as connection:
        builders.volume_row(connection, id=builders.OTHER_VOLUME)  # the numbers go on where they were
    database.close()


def spoil(url: str) -> None:
    database = Database(url)
    with database.write() as connection:
        volumes.delete(connection, builders.VOLUME)
    database.close()


def test_sqlite(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    url = f"sqlite:///{tmp_path}/state/stillframe.sqlite"
    fill(url)
    used = Database(url)
    with used.read():  # the service runs
        run(commands_of("Copy it", "sqlite"), tmp_path)
    used.close()
    spoil(url)
    run(commands_of("Restore a copy", "sqlite"), tmp_path)
    check(url)


@pytest.mark.parametrize("server", ["postgresql", "mariadb"], indirect=True)
def test_servers(server: Server, tmp_path: Path) -> None:
    where = {"PGHOST": str(server.directory), "PGUSER": "stillframe", "PGDATABASE": "postgres"}
    (tmp_path / ".my.cnf").write_text(f"[client]\nsocket = {server.directory}/socket\nuser = root\n")
    where["HOME"] = str(tmp_path)
    first = commands_of("", server.kind) if server.kind == "mariadb" else commands_of("", server.kind)[1:]  # the user is there
    url = server.url("stillframe")
    run(first, tmp_path, where)
    fill(url)
    run(commands_of("Copy it", server.kind), tmp_path, where)
    spoil(url)
    run(commands_of("Restore a copy", server.kind), tmp_path, where)
    check(url)

"""A private PostgreSQL 15."""

from pathlib import Path

from tests.support.database_server import Server, begin, program, run

_BIN = "/usr/lib/postgresql/15/bin"
_FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "shared_buffers=32MB", "max_connections=200")


def start() -> Server:
    return begin("postgresql", _prepare)


def _prepare(directory: Path) -> tuple[list[str], str, str]:
    initdb, postgres = (program("postgresql", f"{_BIN}/{name}") for name in ("initdb", "postgres"))
    how = ["-U", "stillframe", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
    run([initdb, "-D", f"{directory}/data", *how], directory)
    settings = ("listen_addresses=", f"unix_socket_directories={directory}", *_FAST)
    command = [postgres, "-D", f"{directory}/data", *(word for each in settings for word in ("-c", each))]
    return command, f"postgresql+psycopg://stillframe@/{{}}?host={directory}", "postgres"

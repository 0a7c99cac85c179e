"""A private MariaDB 10.11."""

from pathlib import Path

from tests.support.database_server import Server, begin, program, run

# The kernel gives all servers of a machine a limited number of places for asynchronous requests.
_BOTH = ("--innodb-log-file-size=8M", "--innodb-use-native-aio=0")
_SMALL = (
    "--skip-networking",
    "--innodb-buffer-pool-size=32M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--performance-schema=off",
    "--skip-log-bin",
    "--max-connections=200",
)


def start() -> Server:
    return begin("mariadb", _prepare)


def _prepare(directory: Path) -> tuple[list[str], str, str]:
    install = program("mariadb-server", "/usr/bin/mariadb-install-db")
    server = program("mariadb-server", "/usr/sbin/mariadbd")
    own = (
        f"--tmpdir={directory}"  # because a server that starts removes the temporary tables of all others in the same directory
    )
    how = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve", *_BOTH]
    run([install, "--no-defaults", f"--datadir={directory}/data", own, *how], directory)
    files = [f"--datadir={directory}/data", f"--socket={directory}/socket", f"--pid-file={directory}/pid", own]
    command = [server, "--no-defaults", *files, *_BOTH, *_SMALL]
    return command, f"mysql+pymysql://root@localhost/{{}}?unix_socket={directory}/socket&charset=utf8mb4", "mysql"

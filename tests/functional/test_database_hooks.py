"""The freeze hooks operators copy into guests, run as qemu-ga runs them, on a real PostgreSQL and a real MariaDB."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HOOKS = Path(__file__).parents[2] / "deploy" / "hooks"
BIN = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]


def as_nobody(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command without privileges, as the databases insist."""
    prefix = NOBODY if os.getuid() == 0 else []
    environment = {"PATH": os.environ["PATH"], "LANG": "C", **variables}
    # To a file: a client in the background would keep a pipe open.
    out = Path(variables["HOME"]) / f"out-{threading.get_ident()}"
    with out.open("w") as stream:
        done = subprocess.run(
            [*prefix, *map(str, command)],
            check=False,
            env=environment,
            stdout=stream,
            stderr=stream,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )
    return subprocess.CompletedProcess(done.args, done.returncode, out.read_text(), "")


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A short directory of nobody's, for sockets have short names."""
    path = Path(f"/tmp/hooks-{os.getpid()}")
    (path / "fsfreeze-hook.d").mkdir(parents=True)
    if os.getuid() == 0:
        for each in (path, path / "fsfreeze-hook.d"):
            os.chown(each, 65534, 65534)
    shutil.copy(HOOKS / "fsfreeze-hook", path)
    yield path
    shutil.rmtree(path)


def hook(home: Path, action: str, **variables: str) -> int:
    """Call the wrapper as the agent does."""
    settings = {"HOME": str(home), "HOOK_LOG": str(home / "log"), "HOOK_SETTINGS": "/nonexistent", **variables}
    return as_nobody(home / "fsfreeze-hook", action, **settings).returncode


def stub(home: Path, name: str, script: str) -> None:
    """A hook of one line."""
    path = home / "fsfreeze-hook.d" / name
    path.write_text(f'#!/bin/sh\necho {name} $1 >>"$HOME/calls"\n{script}\n')
    path.chmod(0o755)


def test_a_failed_freeze_is_undone_and_reported(home: Path) -> None:
    stub(home, "10-good", "exit 0")
    stub(home, "20-bad", '[ "$1" = thaw ] || exit 4')
    stub(home, "30-later.bak", "exit 0")
    assert hook(home, "freeze") == 4
    assert (home / "calls").read_text().splitlines() == ["10-good freeze", "20-bad freeze", "10-good thaw", "20-bad thaw"]


def test_a_failed_thaw_script_does_not_prevent_the_others(home: Path) -> None:
    stub(home, "10-bad", "exit 3")
    stub(home, "20-good", "exit 0")
    stub(home, "30-bad", "exit 5")
    assert hook(home, "thaw") == 3
    assert (home / "calls").read_text().splitlines() == ["10-bad thaw", "20-good thaw", "30-bad thaw"]


def test_postgresql_recovers_every_acknowledged_row(home: Path) -> None:
    shutil.copy(HOOKS / "postgresql", home / "fsfreeze-hook.d")
    at = {"HOME": str(home), "PGHOST": str(home), "PGUSER": "nobody"}
    assert hook(home, "freeze", **at) == 2, "the database is down"
    data = home / "data"
    assert as_nobody(BIN / "initdb", "-N", "-U", "nobody", "-A", "trust", "-D", data, **at).returncode == 0
    options = f"-k {home} -c listen_addresses="
    start = (BIN / "pg_ctl", "-w", "-o", options, "-l", home / "pg.log")

    def sql(text: str) -> str:
        return as_nobody("psql", "-XAtq", "-d", "postgres", "-c", text, **at).stdout.strip()

    assert as_nobody(*start, "-D", data, "start", **at).returncode == 0
    sql("CREATE TABLE t (n int)")
    sql("INSERT INTO t SELECT generate_series(1, 1000)")
    before = sql("SELECT redo_lsn FROM pg_control_checkpoint()")
    assert hook(home, "freeze", **at) == 0
    assert sql("SELECT redo_lsn FROM pg_control_checkpoint()") != before
    acknowledged: list[int] = []
    enough = threading.Event()

    def write() -> None:
        while not enough.is_set():
            if sql(f"INSERT INTO t VALUES ({2000 + len(acknowledged)}) RETURNING n"):
                acknowledged.append(2000 + len(acknowledged))

    writer = threading.Thread(target=write)
    writer.start()
    while len(acknowledged) < 10:
        time.sleep(0.01)
    # What a frozen file system is to the disk: every process stands still while the files are copied.
    postmaster = int((data / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGSTOP)
    children = subprocess.run(["pgrep", "-P", str(postmaster)], capture_output=True, text=True, check=True).stdout.split()
    for pid in map(int, children):
        os.kill(pid, signal.SIGSTOP)
    promised = list(acknowledged)
    subprocess.run(["cp", "-a", data, home / "copy"], check=True)
    for pid in [*map(int, children), postmaster]:
        os.kill(pid, signal.SIGCONT)
    enough.set()
    writer.join()
    assert hook(home, "thaw", **at) == 0
    assert as_nobody(BIN / "pg_ctl", "-w", "-D", data, "-m", "immediate", "stop", **at).returncode == 0
    (home / "copy" / "postmaster.pid").unlink()
    assert as_nobody(*start, "-D", home / "copy", "start", **at).returncode == 0
    rows = {int(row) for row in sql("SELECT n FROM t").split()}
    as_nobody(BIN / "pg_ctl", "-w", "-D", home / "copy", "-m", "immediate", "stop", **at)
    assert rows >= {*range(1, 1001), *promised}


def test_mariadb_stands_still_between_freeze_and_thaw(home: Path) -> None:
    shutil.copy(HOOKS / "mariadb", home / "fsfreeze-hook.d")
    socket, at = home / "my.sock", {"HOME": str(home), "HOOK_STATE": str(home / "state")}
    options = home / "client.cnf"
    options.write_text(f"[client]\nsocket={socket}\nuser=root\n")
    at["CLIENT_OPTIONS"] = str(options)
    assert hook(home, "freeze", **at) == 1, "the database is down"
    data = home / "maria"
    made = as_nobody(
        "mariadb-install-db", "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", **at
    )
    assert made.returncode == 0, made.stdout
    prefix = NOBODY if os.getuid() == 0 else []
    server = subprocess.Popen(
        [
            *prefix,
            "mariadbd",
            "--no-defaults",
            f"--datadir={data}",
            f"--socket={socket}",
            "--skip-networking",
            f"--log-error={home}/maria.log",
        ]
    )

    def sql(text: str) -> subprocess.CompletedProcess[str]:
        return as_nobody("mariadb", f"--defaults-file={options}", "-N", "-e", text, **at)

    try:
        while sql("SELECT 1").returncode:
            assert server.poll() is None, (home / "maria.log").read_text()
            time.sleep(0.1)
        assert sql("CREATE DATABASE d; CREATE TABLE d.t (n INT); INSERT INTO d.t VALUES (1)").returncode == 0
        write = "SET lock_wait_timeout=1; INSERT INTO d.t VALUES (2)"
        assert hook(home, "freeze", **at) == 0, (home / "log").read_text()
        assert sql(write).returncode != 0
        assert hook(home, "thaw", **at) == 0, (home / "log").read_text()
        assert sql(write).returncode == 0
        # A freeze that was killed while it waits for a busy table: the thaw ends its client.
        busy = threading.Thread(target=sql, args=("LOCK TABLES d.t WRITE; SELECT SLEEP(2)",))
        busy.start()
        while "LOCK" not in sql("SHOW PROCESSLIST").stdout and "SLEEP" not in sql("SHOW PROCESSLIST").stdout:
            pass
        environment = {"PATH": os.environ["PATH"], "HOOK_LOG": str(home / "log"), "HOOK_SETTINGS": "/nonexistent", **at}
        waiting = subprocess.Popen([*prefix, home / "fsfreeze-hook", "freeze"], env=environment, start_new_session=True)
        while "FLUSH TABLES" not in sql("SHOW PROCESSLIST").stdout:
            pass
        os.killpg(waiting.pid, signal.SIGKILL)
        assert hook(home, "thaw", **at) == 0
        busy.join()
        waiting.wait()
        assert sql(write).returncode == 0
        # A holder that was killed: its lock is gone, and the thaw says so.
        assert hook(home, "freeze", **at) == 0
        os.killpg(int((home / "state" / "pid").read_text()), signal.SIGKILL)
        while sql(write).returncode:
            pass
        assert hook(home, "thaw", **at) == 1
        assert sql("SELECT COUNT(*) FROM d.t").stdout.strip() == "4"
    finally:
        server.terminate()
        server.wait(30)

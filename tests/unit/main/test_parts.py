"""How the services are told to stop."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

PROGRAM = """
import signal
import sys
import threading
from pathlib import Path
from stillframe.main.parts import Stop
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests under nohup has it ignored
stop = Stop()
print("ready", flush=True)

def give(number):
    while not Path("/proc/self/syscall").read_text().startswith("0 "):  # the main thread is in read(2) (x86-64)
        pass
    signal.pthread_kill(threading.get_ident(), number)

if number := int(sys.stdin.readline()):
    threading.Thread(target=give, args=(number,)).start()
stop.wait(lambda: print("again", flush=True))
"""


@pytest.fixture
def program() -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as a service: without a terminal
    ) as found:
        assert found.stdout is not None
        assert found.stdout.readline() == "ready\n"
        try:
            yield found
        finally:
            found.kill()


def test_signals_that_were_blocked_before_it_started_are_taken() -> None:
    """A mask is inherited: whoever started the service may have left it."""
    blocked = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); os.execv(sys.executable, sys.argv[1:])"
    )
    command = [sys.executable, "-c", blocked, sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) as found:
        assert found.stdout is not None
        try:
            assert found.stdout.readline() == "ready\n"
            go_on(found)
            found.send_signal(signal.SIGTERM)
            assert found.wait(30) == 0
        finally:
            found.kill()


def go_on(program: "subprocess.Popen[str]", number: int = 0) -> None:
    """Lets it wait, and a thread of it be given a signal."""
    assert program.stdin is not None
    program.stdin.write(f"{int(number)}\n")
    program.stdin.flush()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_before_anybody_waits_is_not_lost(program: "subprocess.Popen[str]", number: int) -> None:
    program.send_signal(number)
    go_on(program)
    assert program.wait(30) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_another_thread_is_given_ends_the_wait(program: "subprocess.Popen[str]", number: int) -> None:
    """So ends one that comes just before the main thread begins to wait: the handler runs in neither case."""
    go_on(program, number)
    assert program.wait(30) == 0


def test_signals_at_any_moment_do_not_hold_it_up(program: "subprocess.Popen[str]") -> None:
    """While the wait begins, too. One that comes when the interpreter is gone already ends it as any program."""
    go_on(program)
    for _ in range(20_000):
        if program.poll() is not None:
            break
        program.send_signal(signal.SIGTERM)
    assert program.wait(30) in (0, -signal.SIGTERM)


def test_a_hangup_has_certificates_read_again_and_ends_nothing(program: "subprocess.Popen[str]") -> None:
    assert program.stdout is not None
    go_on(program)
    for _ in range(2):
        program.send_signal(signal.SIGHUP)
        assert program.stdout.readline() == "again\n"
    program.send_signal(signal.SIGTERM)
    assert program.wait(30) == 0


def test_in_a_terminal_a_hangup_ends_it_as_any_program() -> None:
    """Its terminal is gone, and nobody would see it run on."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", PROGRAM])
    try:
        assert os.read(terminal, 100).startswith(b"ready")
        os.kill(pid, signal.SIGHUP)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGHUP
    finally:
        os.close(terminal)

"""How the services are told to stop."""

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
stop = Stop()
print("ready", flush=True)

def give(number):
    while not Path("/proc/self/syscall").read_text().startswith("0 "):  # the main thread is in read(2) (x86-64)
        pass
    signal.pthread_kill(threading.get_ident(), number)

if number := int(sys.stdin.readline()):
    threading.Thread(target=give, args=(number,)).start()
stop.wait()
"""


@pytest.fixture
def program() -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as found:
        assert found.stdout is not None
        assert found.stdout.readline() == "ready\n"
        try:
            yield found
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

"""Programs are bounded: in time, output, processes, and when nobody wants their work any more."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from stillframe.errors import HostCommandFailed
from stillframe.host import run
from stillframe.host.run import Limits

HERE = Path("/")
SHORT = Limits(seconds=0.3)


def python(text: str) -> list[str]:
    return ["/usr/bin/python3", "-c", text]


def alive(pid: int) -> bool:
    """Tells whether a process runs; one that ended and was not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_a_program_prints_comes_back() -> None:
    assert run.run(["printf", "one\\ntwo"], cwd=HERE) == "one\ntwo"


def test_a_program_that_fails_is_told_with_its_code_and_words() -> None:
    with pytest.raises(HostCommandFailed, match="failed with exit code 3: no such luck") as told:
        run.run(python("import sys; sys.exit(print('no such luck', file=sys.stderr) or 3)"), cwd=HERE)
    assert told.value.details == {"exit_code": 3}
    json.dumps(told.value.to_document())


def test_an_exit_code_may_be_an_answer() -> None:
    found = run.attempt(python("print('x'); raise SystemExit(1)"), cwd=HERE)
    assert (found.code, found.output) == (1, "x\n")


def test_death_by_a_signal_is_always_a_failure() -> None:
    with pytest.raises(HostCommandFailed, match="signal 11") as told:
        run.attempt(python("import os; os.kill(os.getpid(), 11)"), cwd=HERE)
    assert told.value.details == {"signal": 11}


def test_a_program_that_does_not_exist_is_told() -> None:
    with pytest.raises(HostCommandFailed):
        run.run(["no-such-program", "x"], cwd=HERE)


def test_control_characters_of_a_program_do_not_reach_the_log() -> None:
    with pytest.raises(HostCommandFailed) as told:
        run.run(python("import sys; sys.exit('a\\x1b[2J\\x07b')"), cwd=HERE)
    assert "\x1b" not in told.value.message and "\x07" not in told.value.message


def test_a_flood_of_complaints_is_cut() -> None:
    with pytest.raises(HostCommandFailed) as told:
        run.run(python("import sys; sys.exit('x' * (1 << 20))"), cwd=HERE)
    assert len(told.value.message) < 4096


def test_output_beyond_the_limit_is_an_error_and_never_cut_off() -> None:
    flood = python("print('x' * 2000)")
    assert len(run.run(flood, cwd=HERE, limits=Limits(output=2001))) == 2001
    with pytest.raises(HostCommandFailed, match="more than 2000 bytes"):
        run.run(flood, cwd=HERE, limits=Limits(output=2000))


def test_an_endless_printer_is_ended() -> None:
    with pytest.raises(HostCommandFailed, match="more than"):
        run.run(["yes"], cwd=HERE)


def test_output_may_be_taken_as_it_comes_and_is_not_kept() -> None:
    taken: list[bytes] = []
    found = run.feed(python("print('x' * 300000)"), taken.append, cwd=HERE)
    assert b"".join(taken) == b"x" * 300000 + b"\n"
    assert found.output == ""
    assert len(taken) > 1


def test_a_reader_that_fails_ends_the_program() -> None:
    def refuse(_piece: bytes) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run.feed(["yes"], refuse, cwd=HERE)


def spawning(pid_file: Path) -> list[str]:
    """A program whose child holds its pipes and would outlive it."""
    script = f"sleep 1000 & echo $! > {pid_file}.new; mv {pid_file}.new {pid_file}; wait"
    return ["/bin/sh", "-c", script]


def test_the_deadline_ends_the_whole_group(tmp_path: Path) -> None:
    with pytest.raises(HostCommandFailed, match="did not end within 3 s"):
        run.run(spawning(tmp_path / "pid"), cwd=HERE, limits=Limits(seconds=3))
    pid = int((tmp_path / "pid").read_text())
    for _ in range(500):
        if not alive(pid):
            return
        threading.Event().wait(0.01)
    pytest.fail("the child of the program lives")


def test_a_program_that_closed_its_pipes_is_waited_for_and_ended_too() -> None:
    quiet = python("import os, time; os.close(1); os.close(2); time.sleep(1000)")
    with pytest.raises(HostCommandFailed, match="did not end"):
        run.run(quiet, cwd=HERE, limits=SHORT)


@pytest.mark.parametrize("pipes", ["", "os.close(1); os.close(2); "])
def test_a_cancelled_program_is_ended(tmp_path: Path, pipes: str) -> None:
    marker = tmp_path / "runs"
    program = python(f"import os, time; open('{marker}', 'w').write(str(os.getpid())); {pipes}time.sleep(1000)")
    with pytest.raises(HostCommandFailed, match="cancelled") as told:
        run.run(program, cwd=HERE, cancelled=lambda: marker.exists() and marker.read_text() != "")
    assert told.value.details == {"cancelled": True}
    assert not alive(int(marker.read_text()))


def test_a_program_that_cannot_be_killed_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one is that waits in the kernel for a share that went away: here the signal does not arrive."""
    real: Callable[[int, int], None] = os.killpg
    meant: list[int] = []
    monkeypatch.setattr(run, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(os, "killpg", lambda group, _signal: meant.append(group))
    try:
        with pytest.raises(HostCommandFailed, match="cannot be killed") as told:
            run.run(["sleep", "1000"], cwd=HERE, limits=SHORT)
        assert told.value.details == {"pid": meant[0]}
    finally:
        monkeypatch.undo()
        for group in meant:
            real(group, signal.SIGKILL)
    for thread in threading.enumerate():
        if thread.name == "reaper":
            thread.join()
    assert not Path(f"/proc/{meant[0]}").exists(), "nobody collected the process"


def test_a_program_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    inner = f"import os, time; open('{pid_file}', 'w').write(str(os.getpid())); time.sleep(1000)"
    outer = (
        "from pathlib import Path\nfrom stillframe.host.run import run\n"
        f"run(['/usr/bin/python3', '-c', {inner!r}], cwd=Path('/'))"
    )
    worker = subprocess.Popen([sys.executable, "-c", outer])
    while not pid_file.exists() or not pid_file.read_text():
        assert worker.poll() is None
        threading.Event().wait(0.01)
    worker.kill()
    worker.wait()
    pid = int(pid_file.read_text())
    for _ in range(500):
        if not alive(pid):
            return
        threading.Event().wait(0.01)
    pytest.fail("the program goes on behind the back of the worker that takes over")


RESOURCES = "import resource as r, json; print(json.dumps({n: r.getrlimit(getattr(r, n))[0] for n in %s}))"


def limits_seen(bounds: Limits | None = None) -> dict[str, Any]:
    names = ["RLIMIT_CORE", "RLIMIT_NOFILE", "RLIMIT_CPU", "RLIMIT_AS", "RLIMIT_FSIZE"]
    found: dict[str, Any] = json.loads(run.run(python(RESOURCES % names), cwd=HERE, limits=bounds))
    return found


def test_a_program_gets_its_limits() -> None:
    assert limits_seen() == {
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": 256,
        "RLIMIT_CPU": 60,
        "RLIMIT_AS": 1 << 30,
        "RLIMIT_FSIZE": -1,
    }
    seen = limits_seen(Limits(cpu_seconds=7, address_space=2 << 30, open_files=300, file_size=12345))
    assert (seen["RLIMIT_CPU"], seen["RLIMIT_AS"], seen["RLIMIT_NOFILE"], seen["RLIMIT_FSIZE"]) == (7, 2 << 30, 300, 12345)


def test_a_program_gets_no_more_than_this_service_may_give() -> None:
    """Whoever started the service gave it less: each call of qemu-img failed, as it may not be given more."""
    script = (
        "import resource as r, sys; from pathlib import Path; from stillframe.host.run import run, Limits\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (64, 64)); r.setrlimit(r.RLIMIT_FSIZE, (1 << 30, 1 << 30))\n"
        "print(run(sys.argv[1:], cwd=Path('/'), limits=Limits(file_size=2 << 30)))"
    )
    inner = python(RESOURCES % ["RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_CPU"])
    said = subprocess.run([sys.executable, "-c", script, *inner], capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == {"RLIMIT_NOFILE": 64, "RLIMIT_FSIZE": 1 << 30, "RLIMIT_CPU": 60}


def test_a_program_gets_a_clean_environment_no_input_and_the_umask_of_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "canary")
    text = "import os, sys; print(sorted(os.environ), repr(sys.stdin.read()), oct(os.umask(0)), os.getsid(0) == os.getpid())"
    assert run.run(["/usr/bin/python3", "-I", "-c", text], cwd=HERE) == "['LC_ALL', 'PATH'] '' 0o117 True\n"


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for program, bounds in ((["printf", "x"], None), (["sleep", "1000"], SHORT), (["yes"], None), (["false"], None)):
        with suppress(HostCommandFailed):
            run.run(program, cwd=tmp_path, limits=bounds)
    assert len(os.listdir("/proc/self/fd")) == before

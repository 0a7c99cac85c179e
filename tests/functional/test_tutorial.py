"""The tutorial, command by command, as it is written. A command that fails is repeated for a while, as its reader would."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillframe.compute.libvirt import domain_xml
from tests.support.stack import Stack, wait_for

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/start/tutorial.md"
PATIENCE_SECONDS = 40
_OVERLAY = re.compile(r"volume-[0-9a-f-]{36}\.[0-9a-f-]{36}")


def commands(text: str) -> list[str]:
    """Returns the commands of every console block: lines after "# " or "$ ", with the rest of a here-document."""
    found: list[str] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        lines = iter(block.split("\n"))
        for line in lines:
            if line.strip().startswith(("# ", "$ ")):
                found.append(_whole(line.strip()[2:], lines))
    return found


def spans(text: str) -> list[str]:
    """Returns what stands between backticks outside of blocks and has a word and an argument, in order."""
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [found for found in re.findall(r"`([^`\n]+)`", plain) if " " in found]


def _whole(first: str, lines: Iterator[str]) -> str:
    whole = [first]
    while whole[-1].endswith("\\"):
        whole.append(next(lines))
    match = re.search(r"<<\s*'?(\w+)'?", first)
    while match and whole[-1] != match[1]:
        whole.append(next(lines))
    return "\n".join(whole)


@pytest.fixture
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("page") / "stillframe")  # a socket's path has 107 bytes at most
    made.start()
    yield made
    made.stop()
    made.destroy()


def test_the_tutorial_does_what_it_says(stack: Stack, tmp_path: Path) -> None:
    text = (
        PAGE.read_text()
        .replace("/root/web-1.xml", str(tmp_path / "web-1.xml"))
        .replace("/root/stillframe", str(stack.state_dir))
    )
    told = commands(text)
    assert told[0].startswith(".venv/bin/stillframe serve")
    assert len(told) > 15
    prelude: list[str] = []
    try:
        for command in told[1:]:
            if command.startswith(("export ", "cd ")) or re.match(r"[A-Z]+=", command):
                prelude.append(command)
            else:
                # Ids on the page are those of its writer; the reader sees others.
                seen = _OVERLAY.sub(active_file(stack), command) if _OVERLAY.search(command) else command
                run(prelude, seen)
    finally:
        for act in ("destroy", "undefine"):
            subprocess.run(["virsh", "-q", "-c", stack.hypervisor.uri, act, "web-1"], capture_output=True, check=False)


def active_file(stack: Stack) -> str:
    """The file the page looks at: what ``domblklist`` shows for vda."""
    xml = stack.hypervisor.connection().lookupByName("web-1").XMLDesc(2)
    return next(str(disk.name) for disk in domain_xml.read(xml).disks if disk.target == "vda")


def run(prelude: list[str], command: str) -> None:
    """Runs a command until it ends well."""
    script = "\n".join([*prelude, command])
    answers: list[str] = []

    def works() -> bool:
        done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        answers.append(f"{done.stdout}\n{done.stderr}")
        if done.returncode != 0:
            time.sleep(1)
        return done.returncode == 0

    try:
        wait_for(works, f"the success of {command!r}", PATIENCE_SECONDS)
    except AssertionError as error:
        raise AssertionError(f"{error}:\n{answers[-1]}") from error

"""What a run found, kept as JSON in ``recorded/``, and the pages made from it. A page is never edited by hand."""

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stillframe.host import qemu_img

Document = dict[str, Any]
RECORDED = Path(__file__).parent / "recorded"
QUIET_CORES = 0.3
REFERENCE = Path(__file__).parents[2] / "docs/reference"


@dataclass(frozen=True)
class Goal:
    """One figure that has a limit, such as a ratio; ``unit`` is written behind both."""

    what: str
    found: float
    limit: float
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.found <= self.limit

    def row(self) -> str:
        digits = 2 if self.limit < 10 else 0
        verdict = "met" if self.met else "**missed**"
        return f"| {self.what} | {self.found:.{digits}f}{self.unit} | {self.limit:g}{self.unit} | {verdict} |"


@dataclass(frozen=True)
class Section:
    """One group of figures, measured together. ``measure(quick)`` returns a JSON document, of which the others make text."""

    name: str
    title: str
    measure: Callable[[bool], Document]
    show: Callable[[Document], list[str]]
    goals: Callable[[Document], list[Goal]]


@dataclass(frozen=True)
class Part:
    """One page. ``closing`` is advice that follows from all figures of the part."""

    name: str
    title: str
    intro: str
    sections: Sequence[Section]
    closing: Callable[[dict[str, Document]], list[str]] = lambda _found: []


def measured(section: Section, quick: bool) -> Document:
    """Runs one section; the answer holds under what conditions."""
    others = _busy_cores()
    found = section.measure(quick)
    return {**found, "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "others": others, "quick": quick}


def _busy_cores(seconds: float = 3.0) -> float:
    """How many cores other programs kept busy just before: nothing of ours runs then."""
    before = _idle_ticks()
    time.sleep(seconds)
    idle = (_idle_ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds
    return round(max(0.0, (os.cpu_count() or 1) - idle), 2)


def _idle_ticks() -> int:
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(words[4]) + int(words[5])  # idle, and idle but for a disk


def keep(part: Part, section: Section, found: Document) -> None:
    known = read(part)
    known[section.name] = found
    RECORDED.mkdir(exist_ok=True)
    (RECORDED / f"{part.name}.json").write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def read(part: Part) -> dict[str, Document]:
    path = RECORDED / f"{part.name}.json"
    found: dict[str, Document] = json.loads(path.read_text()) if path.exists() else {}
    return found


def write_pages(parts: Sequence[Part]) -> None:
    """Writes the page of every part that has figures, and the list of goals above them."""
    lines = [
        "# Figures",
        "",
        f"Written by `make bench` (`python -m tests.bench [quiesce|native|offline|live|waiting]`) on {_machine()}. Each page"
        " compares side by side, in one run, alternating; figures are medians. `tests/bench/recorded/` has what was found.",
        "",
        "```{toctree}",
        ":maxdepth: 1",
        "",
        *[f"bench-{part.name}" for part in parts if read(part)],
        "```",
        "",
    ]
    for part in parts:
        found = read(part)
        if found:
            (REFERENCE / f"bench-{part.name}.md").write_text("\n".join(_page(part, found)).rstrip("\n") + "\n")
            lines += _goals(part, found)
    (REFERENCE / "bench.md").write_text("\n".join(lines).rstrip("\n") + "\n")


def _goals(part: Part, found: dict[str, Document]) -> list[str]:
    rows = [goal.row() for each in part.sections if each.name in found for goal in each.goals(found[each.name])]
    head = [f"## [{part.title}](bench-{part.name}.md)", "", "| goal | found | at most | |", "|---|---|---|---|"]
    return [*head, *rows, ""] if rows else []


def _page(part: Part, found: dict[str, Document]) -> list[str]:
    lines = [f"# {part.title}", "", f"Written by `make bench` on {_machine()}.", "", part.intro, ""]
    for section in part.sections:
        if section.name in found:
            each = found[section.name]
            lines += [f"## {section.title}", "", *section.show(each), ""]
            lines += [f"Measured {each['at']}{_noise(each)}.", ""]
    return [*lines, *part.closing(found)]


def _noise(found: Document) -> str:
    """Other programs make every figure larger, and ours more than a bare program's, because it is several processes."""
    if "others" not in found:
        return f", load {found['load']} before"
    bound = ", so these figures are upper bounds" if found["others"] > QUIET_CORES else ""
    return f"; other programs kept {found['others']} cores busy just before{bound}"


def _machine() -> str:
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {int(memory.split()[1]) >> 20} GiB of memory, files on"
        f" {_file_system()}, {qemu_img.version().split('(')[0].strip()}, guests emulated (TCG)"
    )


def _file_system() -> str:
    mounts = dict(line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines())
    return mounts.get(tempfile.gettempdir(), mounts.get("/", "unknown"))

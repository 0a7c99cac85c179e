"""What became of each test, and the page that says so."""

import json
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.openstack_venv import ROOT

PAGE = ROOT / "docs/reference/tempest.md"
EXCLUDED = Path(__file__).with_name("excluded.txt")
OUTCOMES = ("passed", "skipped", "failed")
_INTRODUCTION = """# Tempest

Written by `make test-tempest`: Tempest {tempest} and cinder-tempest-plugin {plugin}, unmodified, against Stillframe with a real
Keystone and a real Glance. `tests/tempest/` has the configuration.

| suite | passed | skipped | failed |
|---|---|---|---|
"""
# Run by Tempest's own Python, which has the library: the last event of a test says what became of it.
_READ = """
import json, sys
from subunit import ByteStreamToStreamResult
from testtools import StreamToDict
OUTCOMES = {"success": "passed", "skip": "skipped", "fail": "failed"}
found = []
def keep(test):
    if test["status"] in OUTCOMES:
        texts = {name: content.as_text() for name, content in test["details"].items()}
        why = texts.get("reason", "") if test["status"] == "skip" else texts.get("traceback", "").strip()[-2000:]
        found.append({"name": test["id"], "outcome": OUTCOMES[test["status"]], "why": why.strip()})
result = StreamToDict(keep)
result.startTestRun()
ByteStreamToStreamResult(sys.stdin.buffer, non_subunit_name="stdout").run(result)
result.stopTestRun()
json.dump(found, sys.stdout)
"""


@dataclass(frozen=True)
class Result:
    """One test, or the set-up of a class of them. ``why``: the reason of a skip, the end of a failure's text."""

    name: str
    outcome: str
    why: str


def read(workspace: Path, programs: Path) -> list[Result]:
    """Returns the results that the last run in ``workspace`` recorded."""
    recorded = subprocess.run([programs / "stestr", "last", "--subunit"], cwd=workspace, check=False, capture_output=True)
    command = [str(programs / "python"), "-c", _READ]
    told = subprocess.run(command, input=recorded.stdout, check=True, capture_output=True).stdout
    found = [Result(each["name"].partition("[")[0], each["outcome"], each["why"]) for each in json.loads(told)]
    return sorted(found, key=lambda result: result.name)


def figures(found: Sequence[Result], suite: str) -> Counter[str]:
    """Returns how many tests of a suite had which outcome; a class that was not set up counts as one."""
    return Counter(each.outcome for each in found if suite in each.name)


def told(found: Sequence[Result]) -> str:
    """Returns every failure with its reason, and the figures."""
    lines = [f"FAILED {each.name}\n{each.why}\n" for each in found if each.outcome == "failed"]
    counted = Counter(each.outcome for each in found)
    return "\n".join([*lines, ", ".join(f"{counted[outcome]} {outcome}" for outcome in OUTCOMES), ""])


def write_page(found: Sequence[Result], suites: Sequence[str]) -> None:
    """Writes docs/reference/tempest.md."""
    pinned = dict(line.split("==") for line in (ROOT / "requirements/tempest.in").read_text().split() if "==" in line)
    text = _INTRODUCTION.format(tempest=pinned["tempest"], plugin=pinned["cinder-tempest-plugin"])
    for suite in suites:
        counted = figures(found, suite)
        text += f"| `{suite}` | {' | '.join(str(counted[outcome]) for outcome in OUTCOMES)} |\n"
    text += _listed("Failed", [each for each in found if each.outcome == "failed"])
    text += _listed("Skipped by Tempest itself", [each for each in found if each.outcome == "skipped"])
    PAGE.write_text(text + _excluded())


def _listed(title: str, found: Sequence[Result]) -> str:
    if not found:
        return ""
    last = [(each, (each.why.splitlines() or [""])[-1] if each.outcome == "skipped" else "") for each in found]
    return f"\n## {title}\n\n" + "".join(f"- `{each.name}`{f': {why}' if why else ''}\n" for each, why in last)


def _excluded() -> str:
    """The exclusion list, as ``excluded.txt`` has it: an expression, then ``#`` and the reason."""
    rows = [line.partition("#")[::2] for line in EXCLUDED.read_text().splitlines() if line.strip() and line[0] != "#"]
    listed = "".join(f"- `{expression.strip()}`: {reason.strip()}\n" for expression, reason in rows)
    return f"\n## Not run\n\n{listed}"

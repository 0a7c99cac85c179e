"""Rules of the repository that no linter knows: no addresses of package indexes, no paths of somebody's machine, a hash for
every requirement, and the shape of the code (``shape``)."""

import re
import subprocess
import sys
from pathlib import Path

from tests import shape

ROOT = Path(__file__).parent.parent
_FORBIDDEN = re.compile(
    r"--(?:extra-)?index-url|--find-links|files\.pythonhosted|pypi\.org/simple|(?<![\w.])/(?:work|home)/\w+"
)
_ALLOWED = {"tests/repository.py"}


def problems() -> list[str]:
    """Returns one line for each breach, empty when there is none."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = []
    for name in listed.stdout.split("\n"):
        path = ROOT / name
        if not path.is_file() or name in _ALLOWED:
            continue
        text = path.read_text(errors="replace")
        found += [
            f"{name}:{number}: {line.strip()[:100]}"
            for number, line in enumerate(text.split("\n"), 1)
            if _FORBIDDEN.search(line)
        ]
        if name.startswith("requirements/") and "://" in text:
            found.append(f"{name}: holds an address")
        if re.fullmatch(r"requirements/(?!system-packages)\w+\.txt", name):
            found += [f"{name}: {each}" for each in unpinned(text)]
    return found + shape.problems()


def unpinned(text: str) -> list[str]:
    """Returns a line for each requirement of a pip list that is not pinned to one version or has no sha256 hash."""
    wrong = []
    for each in text.replace("\\\n", " ").split("\n"):
        requirement = each.partition(" --hash")[0].partition(";")[0].strip()
        if not requirement or requirement.startswith("#"):
            continue
        if not re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?==[\w.!+]+", requirement):
            wrong.append(f"{requirement[:60]} is not pinned to one version")
        elif not re.search(r" --hash=sha256:[0-9a-f]{64}(\s|$)", each):
            wrong.append(f"{requirement[:60]} has no hash")
    return wrong


if __name__ == "__main__":
    breaches = problems()
    sys.stdout.write("\n".join(breaches) + ("\n" if breaches else "repository rules: kept\n"))
    sys.exit(bool(breaches))

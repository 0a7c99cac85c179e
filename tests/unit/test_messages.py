"""What people read says things by their names: no number of a rule or of a finding, which only our own pages explain."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillframe import errors
from stillframe.volumes.doctor.findings import KINDS, Kind

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/stillframe"
NUMBER = re.compile(r"\b(?:[IRGDF]\d{1,2}|finding \d+|invariant \d+)\b")
_THINGS = r"(it|them|this|something|the (volume|file|server|snapshot)s?)"
DESTROYS = re.compile(rf"\b(remove|delete|drop|discard|kill|unlink|overwrite|reset) {_THINGS}\b", re.IGNORECASE)
# Their docstrings are printed, as what a command is for.
PRINTED = ("client/osc", "main")
FOR_USERS = [
    ROOT / "README.md",
    *(each for part in ("start", "how-to", "reference") for each in (ROOT / "docs" / part).glob("*.md")),
]


def _docstrings(tree: ast.AST) -> set[int]:
    """Ids of the expressions that explain code to who reads it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                found.add(id(first.value))
    return found


def told() -> Iterator[tuple[str, str]]:
    """Every text of the code that may reach somebody, with its place."""
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        passed = set() if str(path.relative_to(SOURCE)).startswith(PRINTED) else _docstrings(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in passed:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value


def test_no_message_names_a_rule_by_its_number() -> None:
    texts = list(told())
    assert len(texts) > 3000
    assert [(place, text) for place, text in texts if NUMBER.search(text)] == []


@pytest.mark.parametrize("page", FOR_USERS, ids=lambda page: page.name)
def test_no_page_for_users_names_a_rule_by_its_number(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert [line for line in lines if NUMBER.search(re.sub(r"\[[^\]]*\]\([^)]*\)|`[^`]*`", "", line))] == []


@pytest.mark.parametrize("kind", errors.catalogue().values(), ids=lambda kind: kind.code)
def test_a_hint_says_what_to_do_and_destroys_nothing(kind: type[errors.StillframeError]) -> None:
    """Whoever does exactly what it says, without having read anything else, must not lose data."""
    assert kind.hint.endswith(".") and len(kind.hint.split()) > 2
    assert not NUMBER.search(kind.hint)
    assert DESTROYS.search(kind.hint) is None


@pytest.mark.parametrize(("name", "kind"), KINDS.items(), ids=list(KINDS))
def test_the_doctor_does_not_advise_to_lose_data(name: str, kind: Kind) -> None:
    """What is given up is only what the operator has been told to know first."""
    assert not NUMBER.search(kind.means + kind.advice)
    found = DESTROYS.search(kind.advice)
    assert found is None or re.search(r"[Ww]hen |[Ii]f |once |until |before ", kind.advice), name

"""What code, tests and pages cite exists: facts (F1), rules (R1), invariants (I1), decisions, pages, and places in the code."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/stillframe"
DESIGN = ROOT / "docs/design"
# Tables and headings that a citation leads to, by the letter it begins with.
TARGETS = {
    "F": re.compile(r"^### (F\d+)\. \S", re.MULTILINE),
    "R": re.compile(r"^\| (R\d+) \| \S", re.MULTILINE),
    "I": re.compile(r"^\| (I\d+) \| \S", re.MULTILINE),
}
PAGES = {"F": "facts.md", "R": "threats.md", "I": "invariants.md"}
CITATION = re.compile(r"(?<![\w.-])[FRI]\d{1,2}(?![\w-])")
DECISION = re.compile(r"\bdecision (\d+)\b")
PAGE = re.compile(r"(?<![\w/.])(?:docs/(?!interop|specs)|deploy/)[\w/.-]+\w")  # interop and specs are QEMU's
# Numbers of a page that is not here: "finding 13", "(4.2)", "(D4)".
ELSEWHERE = re.compile(r"\bfindings? \d|\(4\.[1-6][,)]|, [SDPC]\d\)|\(D\d\)")
# `compute/quiesce/thaw.py: settle, other` in a page
PLACE = re.compile(r"`([a-z_/]+\.py)(?:: ([^`]+))?`")


def explanations(path: Path) -> Iterator[tuple[int, str]]:
    """Comments and docstrings of a Python file, with their lines; a text that a program makes cites nothing."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and token.string.startswith('"""')):
            yield token.start[0], token.string


def explained() -> Iterator[tuple[str, str]]:
    """Every text that explains something to who works on the code, with its place."""
    for folder in (SOURCE, ROOT / "tests"):
        for path in sorted(folder.rglob("*.py")):
            if path != Path(__file__):
                yield from ((f"{path.relative_to(ROOT)}:{line}", text) for line, text in explanations(path))
    for path in (ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for line, text in enumerate(path.read_text().split("\n"), 1):
            yield f"{path.relative_to(ROOT)}:{line}", text


TEXTS = list(explained())


def _targets() -> dict[str, list[str]]:
    return {letter: found.findall((DESIGN / PAGES[letter]).read_text()) for letter, found in TARGETS.items()}


def test_a_cited_fact_rule_or_invariant_has_its_place() -> None:
    known = {name for found in _targets().values() for name in found}
    cited = [(place, name) for place, text in TEXTS for name in CITATION.findall(text)]
    assert len(cited) > 100
    assert [each for each in cited if each[1] not in known] == []


def test_a_number_means_one_thing() -> None:
    for letter, found in _targets().items():
        assert len(found) > 10, letter
        assert sorted(set(found)) == sorted(found), letter


def test_every_fact_says_how_it_is_known() -> None:
    parts = re.split(r"^#+ ", (DESIGN / "facts.md").read_text(), flags=re.MULTILINE)
    facts = [each for each in parts if re.match(r"F\d+\.", each)]
    assert len(facts) > 30
    assert [each.split("\n")[0] for each in facts if not re.search(r"\*([Ss]een|Read|reasoned)|not tried", each)] == []


def test_nothing_is_cited_that_is_not_in_the_repository() -> None:
    assert [(place, text.strip()) for place, text in TEXTS if ELSEWHERE.search(text)] == []


def test_a_cited_decision_exists() -> None:
    known = {int(path.name[:4]) for path in (ROOT / "docs/decisions").glob("[0-9]*.md")}
    cited = [(place, int(number)) for place, text in TEXTS for number in DECISION.findall(text)]
    assert len(cited) > 5
    assert [each for each in cited if each[1] not in known] == []


def test_a_cited_page_exists() -> None:
    cited = [(place, name) for place, text in TEXTS if place.endswith(".py") or ".py:" in place for name in PAGE.findall(text)]
    assert len(cited) > 2
    assert [each for each in cited if not (ROOT / each[1]).exists() and not list(ROOT.glob(f"{each[1]}*"))] == []


def _named(path: Path, name: str) -> bool:
    return re.search(rf"^ *(?:def|class) {name}\b|^{name}\b *[:=]", path.read_text(), re.MULTILINE) is not None


def test_a_place_in_the_code_that_a_design_page_names_exists() -> None:
    """``file.py: function`` names a function or class of that file; a file alone may be given from the room it is in."""
    wrong, seen = [], 0
    for page in (*sorted(DESIGN.glob("*.md")), *sorted((ROOT / "docs/decisions").glob("*.md")), ROOT / "CONTRIBUTING.md"):
        for file, names in PLACE.findall(page.read_text()):
            seen += 1
            found = [path for path in (SOURCE / file, ROOT / file) if path.is_file()]
            found = found or [path for path in (*SOURCE.rglob(file), *(ROOT / "tests").rglob(file)) if path.is_file()]
            missing = [name for name in re.findall(r"\w+", names) if not any(_named(path, name) for path in found)]
            if not found or missing:
                wrong.append((page.name, file, missing))
    assert seen > 50
    assert wrong == []

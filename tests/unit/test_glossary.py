"""One word for one thing: terms of the design pages are in the glossary, and words it replaces are in no page or message."""

import io
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

from tests.unit.test_citations import SOURCE, explanations
from tests.unit.test_messages import told

ROOT = Path(__file__).parents[2]
DESIGN = ROOT / "docs/design"
GLOSSARY = DESIGN / "glossary.md"
ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
SOURCES = {"QEMU", "libvirt", "OpenStack", "Linux", "NFS", "POSIX", "Stillframe"}
MARKED = re.compile(r"(?<![\w*])\*([A-Za-z][^*\n]*)\*(?!\*)")
# Marks that are no terms: how a fact is known, what came of a report, and words that are only stressed.
MARKS = {"seen", "seen, read", "read", "reasoned", "right", "mended", "both", "failed", "thawed", "overlays", "stillframe"}
# By what is said instead; each as it is written in a sentence. Identifiers stand between backticks and are not looked at.
SYNONYMS = {
    "suspend, resume": r"\bh(old|olds|olding|eld) (a |the |its |their )?(guests? )?still\b|\bheld guest\b",
    "continue": r"\bgo(es|ing)? on\b|\bwent on\b",
    "expedite": r"\bhasten",
    "parent image": r"\bfoundations?\b",
    "cancel, unmanage, abandon": r"\bg(ive|ives|iving|iven|ave) (\w+ ){0,2}up\b",
    "release": r"\blet(s|ting)? (it |them |him |the \w+ )?go\b",
    "clean up": r"\b(un)?tid(y|ied|ies|ying)\b",
    "worker context": r"\bworld\b(?!-)",
    "executor": r"\bhands\b",
    "wait for its turn": r"\bst(and|ands|ood|anding) in line\b",
    "silently": r"\bwithout a word\b",
}
# The same for the names of the code, each as a part of one, such as "held" in "held_guest".
NAMES = {
    "expedite": "hasten",
    "parent image": "foundation",
    "release": "let_?go",
    "clean up": "(un)?tid(y|ied)",
    "worker context": "worlds?",
    "executor": "hands?",
    "cancel, unmanage, abandon": "giv(e|ing|en)_(up|back)",
    "continue": "go_?on",
    "client": "doors?",
}
CODE = re.compile(r"```.*?```|``[^`]*``|`[^`\n]*`", re.DOTALL)


def _rows() -> list[tuple[str, str, str]]:
    return [row for row in ROW.findall(GLOSSARY.read_text()) if row[0] not in ("Word", "---")]


@cache
def _prose() -> list[tuple[str, str]]:
    """Every line of the pages without what is code, with its place."""
    found: list[tuple[str, str]] = []
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))):
        if path == GLOSSARY:
            continue
        plain = CODE.sub(lambda found: "\n" * found[0].count("\n"), path.read_text())
        found += [(f"{path.relative_to(ROOT)}:{number}", line) for number, line in enumerate(plain.split("\n"), 1)]
    return found


@cache
def _messages() -> list[tuple[str, str]]:
    """Every text of the code that is more than one word, without what is code in it. A single word is a key."""
    return [(place, CODE.sub("", text)) for place, text in told() if " " in text]


@cache
def _comments() -> list[tuple[str, str]]:
    """Every comment and docstring of the code without what is code in it."""
    return [
        (f"{path.relative_to(ROOT)}:{line}", CODE.sub("", text))
        for path in sorted(SOURCE.rglob("*.py"))
        for line, text in explanations(path)
    ]


def test_a_word_has_one_row_one_or_two_sentences_and_a_source() -> None:
    rows = _rows()
    assert len(rows) > 60
    words = [word for word, _, _ in rows]
    assert sorted(set(words)) == sorted(words)
    assert [row for row in rows if not set(row[2].split(", ")) <= SOURCES] == []
    assert [row for row in rows if row[1].count(". ") > 2] == []


def test_what_a_design_page_marks_as_a_term_is_in_the_glossary() -> None:
    words = {word.lower() for word, _, _ in _rows()}
    marked = [
        (path.name, found)
        for path in sorted(DESIGN.glob("*.md"))
        for found in MARKED.findall(CODE.sub("", path.read_text()))
        if found.rstrip(".").lower() not in MARKS
    ]
    assert len(marked) > 8
    assert [each for each in marked if each[1].rstrip(".").lower() not in words] == []


@pytest.mark.parametrize("instead", SYNONYMS)
def test_a_page_says_it_in_the_words_of_the_field(instead: str) -> None:
    wrong = re.compile(SYNONYMS[instead], re.IGNORECASE)
    assert [(place, line.strip()) for place, line in _prose() if wrong.search(line)] == [], f"say {instead}"


@pytest.mark.parametrize("instead", SYNONYMS)
def test_a_message_says_it_in_the_words_of_the_field(instead: str) -> None:
    wrong = re.compile(SYNONYMS[instead], re.IGNORECASE)
    assert [(place, text) for place, text in _messages() if wrong.search(text)] == [], f"say {instead}"


@pytest.mark.parametrize("instead", SYNONYMS)
def test_a_comment_says_it_in_the_words_of_the_field(instead: str) -> None:
    wrong = re.compile(SYNONYMS[instead], re.IGNORECASE)
    assert len(_comments()) > 2000
    assert [(place, text) for place, text in _comments() if wrong.search(text)] == [], f"say {instead}"


@cache
def _names() -> frozenset[str]:
    """Every name in the code, as written."""
    found: set[str] = set()
    for path in sorted(SOURCE.rglob("*.py")):
        if "migrations" not in path.parts:
            tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
            found |= {path.stem} | {token.string for token in tokens if token.type == tokenize.NAME}
    return frozenset(found)


@pytest.mark.parametrize("instead", NAMES)
def test_a_name_is_in_the_words_of_the_field(instead: str) -> None:
    wrong = re.compile(rf"(^|_)({NAMES[instead]})(_|$)")
    assert len(_names()) > 4000
    spelt = {name: re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() for name in _names()}
    assert sorted(name for name, words in spelt.items() if wrong.search(words)) == [], f"say {instead}"

"""What people read says things by their names: no number of a rule or of a finding, which only our own pages explain, no
word of the code, and no command that cannot be typed."""

import ast
import re
import shlex
from argparse import ArgumentError, ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from stillframe import errors
from stillframe.volumes.recovery.doctor.findings import KINDS, Kind
from tests.unit.test_pages import GLOBAL, KNOWN, parser_of

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/stillframe"
NUMBER = re.compile(r"\b(?:[IRGDF]\d{1,2}|finding \d+|invariant \d+)\b")
_THINGS = r"(it|them|this|something|the (volume|file|server|snapshot)s?)"
DESTROYS = re.compile(rf"\b(remove|delete|drop|discard|kill|unlink|overwrite|reset) {_THINGS}\b", re.IGNORECASE)
# Words of the code, which mean something else or nothing to who reads a message.
INSIDE = re.compile(
    r"\b(the world|hands|le(t|ts|tting) (it |them )?go|held still|(for|in) its turn|(stood|stands?) in line|look around failed"
    r"|error of the program|no way back|makes? no sense|nobody can tell)\b"
)
NAMED = re.compile(r"(?P<before>^|.)(?<![\w./@:-])(?P<command>(stillframe|openstack) [a-z-].*)", re.DOTALL)
ENDS = {"": None, "'": "'", "(": ")"}
# The docstrings of their classes are printed, as what a command is for.
PRINTED = ("client/osc", "main")
FOR_USERS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "changes").glob("*.md")),
    *sorted(each for each in (ROOT / "deploy").rglob("*") if each.is_file()),
    *(each for part in ("start", "how-to", "reference") for each in sorted((ROOT / "docs" / part).glob("*.md"))),
]


def _docstrings(tree: ast.AST, printed: bool) -> set[int]:
    """Ids of the expressions that explain code to who reads it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body:
            first = node.body[0]
            shown = printed and isinstance(node, ast.ClassDef)
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and not shown:
                found.add(id(first.value))
    return found


def _text(node: ast.AST) -> str | None:
    """A text as it is told, with X for what is only known when it is told."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(each.value) if isinstance(each, ast.Constant) else "X" for each in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def told() -> Iterator[tuple[str, str]]:
    """Every text of the code that may reach somebody, log lines too, with its place."""
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        passed = _docstrings(tree, str(path.relative_to(SOURCE)).startswith(PRINTED))
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                passed |= {id(each) for each in node.values if isinstance(each, ast.Constant)}
            text = _text(node)
            if text is not None and id(node) not in passed:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", text  # type: ignore[attr-defined]


def named(text: str) -> Iterator[str]:
    """Every command of stillframe or openstack a text names. Raises ValueError for one whose end nobody can see."""
    rest = text
    while found := NAMED.search(rest):
        command, before = found["command"], found["before"]
        if before not in ENDS:
            raise ValueError(f"quotes are missing around {command[:60]!r}")
        ends = ENDS[before]
        command, _, rest = command.partition(ends) if ends else (command, "", "")
        yield command


class _Refused(Exception):
    pass


def _refuse(message: str) -> NoReturn:
    raise _Refused(message)


def why_not(command: str) -> str | None:
    """Why a command cannot be typed as a text names it; None: it can. Arguments may be left out all together."""
    words = shlex.split(GLOBAL.sub("", command).replace("=X", " X"))
    name = next((" ".join(words[:count]) for count in (5, 4, 3, 2) if " ".join(words[:count]) in KNOWN), None)
    if name is None:
        return "there is no such command"
    rest = words[len(name.split()) :]
    parser = parser_of(name)
    parser.error = _refuse  # type: ignore[method-assign]
    wanting = [each for each in parser._actions if each.option_strings and each.required]
    for each in wanting:
        each.required = False
    for group in parser._mutually_exclusive_groups:
        group.required = False
    last = parser._option_string_actions.get(rest[-1]) if rest else None
    if last is not None and last.nargs != 0:
        rest = [*rest, "1"]
    try:
        parser.parse_args(rest)
    except (_Refused, ArgumentError) as error:
        return None if _leaves_all_out(parser, rest, str(error)) else str(error)
    return None


def _leaves_all_out(parser: ArgumentParser, rest: list[str], refusal: str) -> bool:
    missing = "the following arguments are required: "
    own = [str(each.metavar or each.dest) for each in parser._actions if not each.option_strings]
    return refusal.startswith(missing) and refusal.removeprefix(missing).split(", ") == own


def test_no_message_names_a_rule_by_its_number() -> None:
    texts = list(told())
    assert len(texts) > 3000
    assert [(place, text) for place, text in texts if NUMBER.search(text)] == []


def test_a_message_is_in_the_words_of_its_reader() -> None:
    assert [(place, text) for place, text in told() if INSIDE.search(text)] == []


def test_what_compute_refuses_names_no_directory_of_the_host() -> None:
    """Whoever owns a server reads it: names of files are theirs, where a share is mounted is not."""
    found = []
    for path in sorted((SOURCE / "compute").rglob("*.py")):
        raised = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Raise)]
        for value in (each for node in raised for each in ast.walk(node) if isinstance(each, ast.FormattedValue)):
            told = ast.unparse(value.value)
            if re.search(r"^(path|share|place)$|\bdirectory\b'?\]?$|\.(file|path|directory)$", told):
                found.append((f"{path.relative_to(ROOT)}:{value.lineno}", told))
    assert found == []


def test_a_command_that_a_message_names_can_be_typed() -> None:
    found = [(place, command) for place, text in told() for command in named(text)]
    assert len(found) > 20
    wrong = [(place, command, why) for place, command in found if (why := why_not(command)) is not None]
    assert wrong == []


@pytest.mark.parametrize(
    ("command", "refused"),
    [
        ("stillframe operation retry ID", False),
        ("stillframe operation retry", False),
        ("stillframe operation repair ID", True),
        ("stillframe operation retry --force ID", True),
        ("openstack server remove volume SERVER VOLUME", False),
        ("openstack server remove volume SERVER", True),
        ("openstack --os-volume-api-version 3.27 volume attachment delete ATTACHMENT", False),
        ("openstack volume attachment erase ATTACHMENT", True),
        ("openstack volume create --source", False),
        ("openstack volume create --sources", True),
    ],
)
def test_a_command_that_is_not_there_is_seen(command: str, refused: bool) -> None:
    assert (why_not(command) is not None) is refused


def test_a_command_is_found_where_it_is_named() -> None:
    text = "Start it (openstack server start), or see 'stillframe chain show'; stillframe.conf is a file."
    assert list(named(text)) == ["openstack server start", "stillframe chain show"]
    with pytest.raises(ValueError, match="quotes are missing"):
        list(named("then use stillframe chain show to look"))


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

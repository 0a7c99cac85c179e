"""The shape the code keeps to: the size of files and functions, docstrings, and no circle of imports between folders.

``python -m tests.shape`` prints the figures.
"""

import ast
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SRC = Path(__file__).parent.parent / "src"
PACKAGE = "stillframe"
LEAST_DOCUMENTED = 0.9
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Limits:
    """The most that half of them, 95 of 100, and any may have, in lines."""

    median: float
    p95: int
    longest: int


FILES = Limits(130, 350, 450)
FUNCTIONS = Limits(6, 25, 60)


def problems(root: Path = SRC) -> list[str]:
    """Returns a line for each breach in the modules below ``root``."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(root.rglob("*.py"))}
    files = {str(path.relative_to(root)): path.read_text().count("\n") for path in trees}
    functions = {
        f"{path.relative_to(root)}:{each.name}": int(each.end_lineno or each.lineno) - each.lineno + 1
        for path, tree in trees.items()
        for each in ast.walk(tree)
        if isinstance(each, Function)
    }
    found = [*too_long("files", files, FILES), *too_long("functions", functions, FUNCTIONS)]
    names = [each for path, tree in trees.items() for each in public(tree, str(path.relative_to(root)))]
    bare = [name for name, documented in names if not documented]
    if len(bare) > (1 - LEAST_DOCUMENTED) * len(names):
        share = 1 - len(bare) / len(names)
        found.append(f"{share:.1%} of the public names have a docstring, the least is {LEAST_DOCUMENTED:.0%}: {bare[:20]}")
    found += [f"folders import each other in a circle: {', '.join(each)}" for each in circles(imports(trees, root))]
    return found


def too_long(what: str, lines: Mapping[str, int], limits: Limits) -> Iterator[str]:
    if not lines:
        return
    ordered = sorted(lines.values())
    yield from (
        f"{name}: {count} lines, the most is {limits.longest}" for name, count in lines.items() if count > limits.longest
    )
    median, p95 = statistics.median(ordered), ordered[int(len(ordered) * 0.95)]
    if median > limits.median:
        yield f"{what}: the median is {median:g} lines, the most is {limits.median:g}"
    if p95 > limits.p95:
        yield f"{what}: one in twenty has more than {p95} lines, the most is {limits.p95}"


def public(tree: ast.Module, place: str) -> Iterator[tuple[str, bool]]:
    """Yields the public functions and classes, and the public methods of those, each with whether it has a docstring."""
    yield from _public(tree.body, place)


def _public(body: Sequence[ast.stmt], place: str) -> Iterator[tuple[str, bool]]:
    for each in body:
        if isinstance(each, Function | ast.ClassDef) and not each.name.startswith("_"):
            yield f"{place}:{each.name}", ast.get_docstring(each) is not None
            if isinstance(each, ast.ClassDef):
                yield from _public(each.body, f"{place}:{each.name}")


def imports(trees: Mapping[Path, ast.Module], root: Path) -> dict[str, set[str]]:
    """Returns by folder the other folders it imports from, wherever the import stands."""
    found: dict[str, set[str]] = {}
    for path, tree in trees.items():
        mine = str(path.parent.relative_to(root))
        for each in ast.walk(tree):
            for name in _imported(each):
                theirs = _folder(name, root)
                if theirs is not None and theirs != mine:
                    found.setdefault(mine, set()).add(theirs)
    return found


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [each.name for each in node.names]
    if isinstance(node, ast.ImportFrom) and node.module is not None:
        return [f"{node.module}.{each.name}" for each in node.names]
    return []


def _folder(name: str, root: Path) -> str | None:
    """The folder of the module that an imported name is, or lies in; None for one that is not ours."""
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return None
    while parts:
        path = root.joinpath(*parts)
        if path.with_suffix(".py").is_file():
            return str(path.parent.relative_to(root))
        if path.is_dir():
            return str(path.relative_to(root))
        parts.pop()
    return None


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Returns the groups of folders in which each reaches every other."""
    reached = {each: _reached(each, edges) for each in edges}
    groups = {tuple(sorted(other for other in found if one in reached.get(other, ()))) for one, found in reached.items()}
    return [list(each) for each in sorted(groups) if len(each) > 1]


def _reached(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for each in edges.get(waiting.pop(), ()):
            if each not in found:
                found.add(each)
                waiting.append(each)
    return found


if __name__ == "__main__":
    breaches = problems()
    sys.stdout.write("\n".join(breaches or ["the shape is kept"]) + "\n")
    sys.exit(bool(breaches))

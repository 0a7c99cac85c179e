"""The rules about the shape of the code see what breaks them."""

from pathlib import Path

import pytest

from tests import shape


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / "stillframe" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def function(lines: int, name: str = "f") -> str:
    return f'def {name}() -> None:\n    """It."""\n' + "    pass\n" * (lines - 2)


def test_small_documented_files_without_circles_are_fine(tmp_path: Path) -> None:
    files = {"a/x.py": "from stillframe.b import y\n" + function(3), "b/y.py": function(3), "b/__init__.py": ""}
    assert shape.problems(tree(tmp_path, files)) == []


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"x.py": function(3) + "\n" * 450}, "stillframe/x.py: 453 lines, the most is 450"),
        ({f"x{n}.py": function(3) + "\n" * 130 for n in range(3)}, "files: the median is 133 lines, the most is 130"),
        ({"x.py": "\n" * 400, "y.py": ""}, "files: one in twenty has more than 400 lines, the most is 350"),
        ({"x.py": function(61), "y.py": function(2), "z.py": function(2)}, "stillframe/x.py:f: 61 lines, the most is 60"),
        ({"x.py": function(7)}, "functions: the median is 7 lines, the most is 6"),
        ({"x.py": function(26) + function(2, "g")}, "functions: one in twenty has more than 26 lines, the most is 25"),
        ({"x.py": "def f() -> None:\n    pass\n"}, "0.0% of the public names have a docstring"),
        ({"x.py": 'class A:\n    """It."""\n    def b(self) -> None:\n        pass\n'}, "50.0% of the public names"),
        (
            {"a/x.py": "import stillframe.b.y\n", "b/y.py": "def f():\n    from stillframe.a.x import z\n"},
            "folders import each other in a circle: stillframe/a, stillframe/b",
        ),
        (
            {"a/x.py": "from stillframe.a.b import y\n", "a/b/y.py": "from stillframe.a import x\n", "a/b/__init__.py": ""},
            "folders import each other in a circle: stillframe/a, stillframe/a/b",
        ),
    ],
)
def test_each_breach_is_told(tmp_path: Path, files: dict[str, str], wanted: str) -> None:
    assert any(each.startswith(wanted) for each in shape.problems(tree(tmp_path, files)))


def test_what_is_not_public_needs_no_docstring(tmp_path: Path) -> None:
    text = "def _f() -> None:\n    pass\n\nclass _A:\n    def b(self) -> None:\n        pass\n"
    assert shape.problems(tree(tmp_path, {"x.py": text})) == []

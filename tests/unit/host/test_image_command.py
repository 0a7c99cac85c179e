"""One place makes qemu-img's command lines, and none without a format for every file."""

import ast
import json
from pathlib import Path

import pytest

import stillframe
from stillframe.errors import BadImage
from stillframe.host import image_command
from stillframe.host.image_command import above_nothing, chain, command, limits

SOURCE = Path(stillframe.__file__).parent
GIB = 1 << 30


def program_names(path: Path) -> list[str]:
    """String constants of a module that name a program of QEMU, as the first word of a command line would."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            last = node.value.strip().rpartition("/")[2]
            found += [last] if last in ("qemu-img", "qemu-io", "qemu-nbd", "qemu-storage-daemon") else []
    return found


def test_only_one_module_names_qemu_img_and_none_another_program_that_opens_images() -> None:
    found = {path.relative_to(SOURCE).as_posix(): program_names(path) for path in SOURCE.rglob("*.py")}
    assert {path: names for path, names in found.items() if names} == {"host/image_command.py": ["qemu-img", "qemu-img"]}


def test_the_search_would_find_a_call(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('"""About qemu-img."""\nrun(["qemu-img", "info"])\nrun(["/usr/bin/qemu-io"])\n')
    assert program_names(module) == ["qemu-img", "qemu-io"]


@pytest.mark.parametrize("verb", sorted(image_command._VERBS))
def test_a_verb_needs_a_format_for_each_of_its_flags(verb: str) -> None:
    _words, flags = image_command._VERBS[verb]
    assert flags and all(flag in ("-f", "-F", "-O") for flag in flags)
    assert command(verb, ["qcow2"] * len(flags), ["x"])[-2 * len(flags) - 1 :] == [
        *(word for flag in flags for word in (flag, "qcow2")),
        "x",
    ]
    for count in (0, len(flags) - 1, len(flags) + 1):
        if count != len(flags):
            with pytest.raises(ValueError, match="zip"):
                command(verb, ["qcow2"] * count, ["x"])


@pytest.mark.parametrize("format_", ["", "vmdk", "RAW", "luks", "qcow2,backing=x", "-U"])
def test_no_other_format_gets_into_a_command_line(format_: str) -> None:
    with pytest.raises(BadImage, match="not an image format that Stillframe uses"):
        command("check", [format_], ["x"])


def test_verbs_that_could_harm_carry_what_makes_them_safe() -> None:
    assert "-d" in command("commit", ["qcow2"], [])
    for words in (command("pull", ["qcow2", "raw"], []), command("pull all", ["qcow2"], [])):
        assert words[words.index("-t") + 1] == "writethrough"
        assert "-u" not in words
    assert "-u" in command("repoint", ["qcow2", "raw"], [])
    assert "-u" in command("overlay", ["qcow2", "raw"], [])


def test_a_file_alone_is_opened_without_what_backs_it() -> None:
    for format_, expected in (("qcow2", {"backing": None}), ("raw", {})):
        node = json.loads(chain([('a"b', format_)]).removeprefix("json:"))
        assert node == {"driver": format_, "file": {"driver": "file", "filename": 'a"b'}, **expected}


def test_a_chain_is_spelled_out_to_its_end() -> None:
    node = json.loads(chain([("c", "qcow2"), ("b", "qcow2"), ("a", "raw")]).removeprefix("json:"))
    bottom = {"driver": "raw", "file": {"driver": "file", "filename": "a"}}
    middle = {"driver": "qcow2", "file": {"driver": "file", "filename": "b"}, "backing": bottom}
    assert node == {"driver": "qcow2", "file": {"driver": "file", "filename": "c"}, "backing": middle}


def test_above_nothing_every_zero_has_to_be_written() -> None:
    node = json.loads(above_nothing("a", 7).removeprefix("json:"))
    assert node["backing"] == {"driver": "null-co", "size": 7, "read-zeroes": False}


def test_limits_grow_with_the_chain() -> None:
    assert limits(1).address_space == GIB + (64 << 20)
    assert limits(70).address_space > 5 * GIB
    assert limits(200).open_files > 256 + 200
    assert limits(1).file_size is None
    assert (limits(1, size=8 * GIB).file_size or 0) >= 9 * GIB

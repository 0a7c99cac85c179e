"""Paths that lead where nobody answers."""

import os
import subprocess
from pathlib import Path

import pytest

from stillframe.host import probe, reach


class Answers:
    def __init__(self, *dead: str) -> None:
        self.dead = dead
        self.asked: list[str] = []

    def __call__(self, point: str) -> bool:
        self.asked.append(point)
        return point not in self.dead


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    place = Path(os.path.realpath(tmp_path))
    for name in ("dead", "alive", "share"):
        (place / name).mkdir()
    (place / "share/volume").write_bytes(b"")
    (place / "link").symlink_to("share/volume")
    (place / "around").symlink_to("around")
    (place / "alive/back").symlink_to(place / "share")
    (place / "dead/link").symlink_to("/etc")
    (place / "instances").symlink_to("dead")
    return place


@pytest.mark.parametrize(
    ("path", "end"),
    [
        ("share/volume", "share/volume"),
        ("link", "share/volume"),
        ("alive/back/./volume", "share/volume"),
        ("alive/../share/volume", "share/volume"),
        ("nothing/here", "nothing/here"),
    ],
)
def test_links_are_followed_as_the_system_does(tree: Path, monkeypatch: pytest.MonkeyPatch, path: str, end: str) -> None:
    monkeypatch.setattr(reach, "_answers", Answers())
    assert reach.followed(str(tree / path), [str(tree / "alive")]) == str(tree / end) == os.path.realpath(tree / path)


@pytest.mark.parametrize("path", ["dead/link", "dead/disk", "instances/disk", "around"])
def test_what_does_not_answer_is_not_touched(tree: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(reach, "_answers", Answers(str(tree / "dead")))
    touched: list[str] = []
    readlink = os.readlink

    def touch(each: str) -> str:
        touched.append(each)
        return readlink(each)

    monkeypatch.setattr(os, "readlink", touch)
    assert reach.followed(str(tree / path), [str(tree / "dead"), str(tree / "alive")]) is None
    assert not [each for each in touched if each.startswith(str(tree / "dead"))]


def test_a_directory_is_not_taken_for_a_mount_point_of_a_shorter_name(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(str(tree / "sha"))
    monkeypatch.setattr(reach, "_answers", answers)
    assert reach.followed(str(tree / "share/volume"), [str(tree / "sha")]) == str(tree / "share/volume")
    assert answers.asked == []


def test_while_one_look_hangs_no_other_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    class Child:
        code: int | None = None

        def poll(self) -> int | None:
            return self.code

    started: list[Child] = []

    def start(_command: object) -> Child:
        started.append(Child())
        return started[-1]

    def hang(_child: object, _deadline: float) -> bytes:
        raise subprocess.TimeoutExpired("stat", 1)

    monkeypatch.setattr(probe, "_start", start)
    monkeypatch.setattr(probe, "_answer", hang)
    monkeypatch.setattr(probe, "_leave", lambda child: child)
    answering = probe.Answering()
    assert [answering("/dead"), answering("/dead")] == [False, False]
    assert len(started) == 1
    started[0].code = 1
    monkeypatch.setattr(probe, "_answer", lambda *_: b"")
    assert [answering("/dead"), answering("/dead")] == [True, True]
    assert len(started) == 2

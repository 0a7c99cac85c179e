"""Directory entries that are no files, files that lie in chains that never end, and formats that do not fit."""

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.hostile import Fate, Hostile, Place
from tests.support.hostile_headers import QCOW2, RAW, file_of, small
from tests.unit.host.headers import CLUSTER, Header


def cases() -> Iterator[Hostile]:
    for name, build in _specials().items():
        yield Hostile(f"{name}", build)
        yield Hostile(f"{name}-as-raw", build, format="raw")
    yield Hostile("loop-to-itself", lambda p: _overlay(p.directory, p.name, p.name), alone=True)
    yield Hostile("loop-of-two", _mutual, alone=True)
    yield Hostile("chain-of-300", _deep, alone=True)
    yield Hostile("backing-missing", lambda p: _overlay(p.directory, p.name, "missing"), alone=True)
    yield Hostile("backing-is-a-link-to-the-canary", _linked, alone=True)
    yield Hostile("backing-is-no-qcow2", _raw_behind, alone=True)
    yield Hostile("backing-names-the-canary", _two_steps, alone=True)
    yield Hostile("backing-called-raw-is-qcow2", _called_raw, Fate.CONTAINED)


def _specials() -> dict[str, Callable[[Place], None]]:
    return {
        "fifo": lambda p: os.mkfifo(p.path),
        "link-to-a-secret": lambda p: p.path.symlink_to("/etc/shadow"),
        "link-to-the-canary": lambda p: p.path.symlink_to(p.canary),
        "link-in-the-share": _link_inside,
        "link-to-nothing": lambda p: p.path.symlink_to("nothing"),
        "link-to-itself": lambda p: p.path.symlink_to(p.name),
        "hard-link": _hard_link,
        "directory": lambda p: p.path.mkdir(),
        "socket": _socket,
        "character-device": lambda p: os.mknod(p.path, stat.S_IFCHR | 0o600, os.makedev(1, 5)),
        "block-device": lambda p: os.mknod(p.path, stat.S_IFBLK | 0o600, os.makedev(7, 0)),
    }


def _image(directory: Path, name: str, header: Header) -> None:
    (directory / name).write_bytes(file_of(header.start()))


def _overlay(directory: Path, name: str, backing: str) -> None:
    _image(directory, name, small(backing=backing.encode(), extensions=[QCOW2]))


def _link_inside(place: Place) -> None:
    _image(place.directory, "honest-file", small())
    place.path.symlink_to("honest-file")


def _hard_link(place: Place) -> None:
    _image(place.directory, "honest-file", small())
    os.link(place.directory / "honest-file", place.path)


def _socket(place: Place) -> None:
    directory = os.open(place.directory, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{directory}/{place.name}")  # the path itself may be too long for a socket
    os.close(directory)


def _mutual(place: Place) -> None:
    _overlay(place.directory, place.name, "other-of-two")
    _overlay(place.directory, "other-of-two", place.name)


def _deep(place: Place) -> None:
    _overlay(place.directory, place.name, "deep-0")
    for number in range(300):
        header = small(backing=f"deep-{number + 1}".encode(), extensions=[QCOW2]).start()
        with (place.directory / f"deep-{number}").open("wb") as file:
            file.write(header.rstrip(b"\0"))
            file.truncate(4 * CLUSTER)  # sparse: the tables are empty, and QEMU never sees them
    _image(place.directory, "deep-300", small())


def _linked(place: Place) -> None:
    (place.directory / "link").symlink_to(place.canary)
    _image(place.directory, place.name, small(backing=b"link", extensions=[RAW]))


def _raw_behind(place: Place) -> None:
    (place.directory / "no-qcow2").write_bytes(b"\0" * (1 << 20))
    _overlay(place.directory, place.name, "no-qcow2")


def _two_steps(place: Place) -> None:
    _image(place.directory, "step", small(backing=str(place.canary).encode(), extensions=[RAW]))
    _overlay(place.directory, place.name, "step")


def _called_raw(place: Place) -> None:
    """Nobody can tell it from a raw disk on which a guest wrote such a header, so it is read as bytes (R3)."""
    _image(place.directory, "a-qcow2", small(backing=str(place.canary).encode(), extensions=[RAW]))
    _image(place.directory, place.name, small(backing=b"a-qcow2", extensions=[RAW]))

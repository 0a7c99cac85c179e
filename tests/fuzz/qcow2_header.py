"""Fuzzes the header reader, guided by coverage, without end. By hand; it is no part of ``make test``.

    .venv/bin/pip install atheris
    mkdir -p .cache/fuzz
    .venv/bin/python -m tests.fuzz.qcow2_header --seeds .cache/fuzz
    .venv/bin/python -m tests.fuzz.qcow2_header .cache/fuzz -max_len=2048 -timeout=1 -rss_limit_mb=512

The first run writes honest and hostile headers to begin from. A finding is an uncaught exception (anything but BadImage), an
input that takes more than a second, or an accepted image that names something outside its directory; libFuzzer writes it to
``crash-*``. Give that file as the only argument to see it again, and add it to ``tests/support/hostile_headers.py``.
"""

import sys
from contextlib import suppress
from importlib import import_module
from inspect import isfunction
from pathlib import Path
from typing import Any

from stillframe.errors import BadImage
from stillframe.host import files, inspection, qcow2
from tests.support.hostile import Place, battery
from tests.support.hostile_headers import QCOW2, small


def one_input(data: bytes) -> None:
    """Parses one input as the beginning of a file of 1 GiB; lets every error out that is not BadImage."""
    try:
        image = qcow2.parse("image", data, 1 << 30)
    except BadImage:
        return
    if image.backing is not None and inspection.plain_name(image.backing) != image.backing:
        raise AssertionError(f"{image} names something else")
    if image.size > 1 << 56 or image.format != "qcow2":
        raise AssertionError(f"{image} is not to be believed")


def write_seeds(directory: Path) -> int:
    """Writes what the fuzzer begins from; returns how many files."""
    made = directory / "scratch"
    made.mkdir(parents=True, exist_ok=True)
    (directory / "honest").write_bytes(small().start()[:2048])
    (directory / "overlay").write_bytes(small(backing=b"base", extensions=[QCOW2]).start()[:2048])
    for case in battery():
        place = Place(made, case.name, Path("/canary"), 1)
        case.build(place)
        with suppress(BadImage, FileNotFoundError):
            (directory / case.name).write_bytes(files.read_start(made, case.name, 2048)[0])
    for path in made.iterdir():
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    made.rmdir()
    return len(list(directory.iterdir()))


def main(arguments: list[str]) -> None:
    if arguments[1:2] == ["--seeds"]:
        sys.stdout.write(f"{write_seeds(Path(arguments[2]))} inputs to begin from\n")
        return
    fuzzer: Any = import_module("atheris")
    for name, found in list(vars(qcow2).items()):
        if isfunction(found) and found.__module__ == qcow2.__name__:
            setattr(qcow2, name, fuzzer.instrument_func(found))
    fuzzer.Setup(arguments, one_input)
    fuzzer.Fuzz()


if __name__ == "__main__":
    main(sys.argv)

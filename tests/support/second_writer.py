"""A user without rights who may write to a share: a process that tries one thing again and again while we work there."""

import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tests.unit.host.headers import DATA_FILE, END, FEATURE_NAMES, extension

GROUP = 65500
_NOBODY = 65534
_HEAD = """
import os, sys, time
from contextlib import suppress
share, target = sys.argv[1:3]
os.chdir(share)
print("begun", flush=True)
while True:
    with suppress(OSError):
"""


@dataclass(frozen=True)
class Site:
    """``share`` is one that its group may write to; ``host`` a file of the host that only root may read or write."""

    share: Path
    host: Path

    def untouched(self) -> bool:
        return self.host.read_bytes() == SECRET

    @contextmanager
    def attacked(self, *lines: str) -> Iterator[None]:
        """Runs the lines in a loop as nobody in the share's group; ``target`` is the path of the host's file."""
        script = _HEAD + "\n".join(f"        {line}" for line in lines) + "\n"
        rights = ["setpriv", "--pdeathsig", "KILL", f"--reuid={_NOBODY}", f"--regid={GROUP}", "--clear-groups", "--"]
        words = [*rights, sys.executable, "-I", "-c", script, str(self.share), str(self.host)]
        child = subprocess.Popen(words, stdout=subprocess.PIPE)
        try:
            assert child.stdout is not None and child.stdout.readline() == b"begun\n"
            yield
        finally:
            child.kill()
            child.communicate()

    def may_read(self) -> Iterator[bytes]:
        """The content of every file below the share's directory that somebody of its group may read."""
        for place, below, names in os.walk(self.share):
            with suppress(OSError):
                below[:] = [name for name in below if Path(place, name).stat().st_mode & 0o050]
            for name in names:
                with suppress(OSError):  # it has another name now, or is a link
                    handle = os.open(Path(place, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                    with os.fdopen(handle, "rb") as file:
                        if os.fstat(handle).st_mode & 0o040:
                            yield file.read()


@contextmanager
def forged(image: Path, target: Path) -> Iterator[None]:
    """The image's header names ``target`` as the file that holds its data, and its first cluster as that file's; afterwards all
    is as it was. Who may write to the image may do so, in the moment somebody else opens it."""
    with image.open("r+b") as file:
        head = file.read(1 << 16)
        entry = _first_entry(file, head)
        name = bytes(target)
        at = head.index(struct.pack(">I", FEATURE_NAMES), struct.unpack_from(">I", head, 100)[0])
        there = head[:at] + extension(DATA_FILE, name) + extension(END, b"")
        evil = there[:72] + struct.pack(">Q", struct.unpack_from(">Q", there, 72)[0] | 4) + there[80:]
        os.pwrite(file.fileno(), evil, 0)
        if entry:
            kept = os.pread(file.fileno(), 8, entry)
            os.pwrite(file.fileno(), struct.pack(">Q", 1 << 63), entry)
        try:
            yield
        finally:
            os.pwrite(file.fileno(), head, 0)
            if entry:
                os.pwrite(file.fileno(), kept, entry)


def _first_entry(file: BinaryIO, head: bytes) -> int:
    """Where the place of the first cluster stands; 0 when there is none."""
    level_1 = struct.unpack_from(">Q", head, 40)[0]
    return int(struct.unpack(">Q", os.pread(file.fileno(), 8, level_1))[0]) & ((1 << 56) - 512)


SECRET = b"only root may know this\n" * 4096


@contextmanager
def site() -> Iterator[Site]:
    place = Path(tempfile.mkdtemp(prefix="second-writer-"))  # pytest's own directory nobody else may enter
    try:
        place.chmod(0o755)
        made = Site(place / "share", place / "host")
        made.share.mkdir()
        os.chown(made.share, 0, GROUP)
        made.share.chmod(0o2770)
        made.host.touch(0o600)
        made.host.write_bytes(SECRET)
        yield made
    finally:
        shutil.rmtree(place)

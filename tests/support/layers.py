"""Real image files with a model beside them: what every file must read as, byte by byte.

The files are written and read with qemu-io and qemu-img directly, never through the code under test.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20
KIB = 1 << 10


@dataclass
class Layers:
    """Files of one directory. ``content`` is what a reader of each file's chain sees."""

    share: Path
    content: dict[str, bytes] = field(default_factory=dict)
    formats: dict[str, str] = field(default_factory=dict)

    def base(self, name: str, format_: str, size: int, options: str = "") -> None:
        extra = ["-o", options] if options else []
        self._do("qemu-img", "create", "-q", "-f", format_, *extra, name, str(size))
        (self.share / name).chmod(0o660)  # as the services make it
        self.formats[name] = format_
        self.content[name] = b"\0" * size

    def overlay(self, name: str, backing: str, size: int | None = None, options: str = "") -> None:
        below = self.content[backing]
        length = len(below) if size is None else size
        extra = ["-o", options] if options else []
        words = ["create", "-q", "-f", "qcow2", "-b", backing, "-F", self.formats[backing], *extra, name, str(length)]
        self._do("qemu-img", *words)
        self.formats[name] = "qcow2"
        self.content[name] = below[:length].ljust(length, b"\0")

    def write(self, name: str, at: int, length: int, value: int) -> None:
        self._io(name, f"write -P {value} {at} {length}")
        self._put(name, at, bytes([value]) * length)

    def zero(self, name: str, at: int, length: int) -> None:
        """Writes zero clusters, which hide what is behind them."""
        self._io(name, f"write -z -u {at} {length}")
        self._put(name, at, b"\0" * length)

    def discard(self, name: str, at: int, length: int) -> None:
        """What a guest's TRIM does. QEMU 7.2 makes zero clusters of it where there is a backing file."""
        self._io(name, f"discard {at} {length}")
        self.content[name] = self.read(name)

    def tower(self, base_format: str, size: int = 4 * MIB) -> None:
        """Four files, ``base`` to ``top``, with everything a merge can meet: data over data, over nothing, zeros over data,
        data over zeros, parts of clusters."""
        self.base("base", base_format, size)
        self.write("base", 0, size // 2, 0x11)
        self.overlay("one", "base")
        self.write("one", size // 4, size // 8, 0x21)
        self.zero("one", size // 16, 128 * KIB)
        self.overlay("two", "one")
        self.write("two", size // 4 + 64 * KIB, 64 * KIB, 0x31)
        self.write("two", size // 16 + 4 * KIB, 8 * KIB, 0x32)
        self.write("two", size * 3 // 4, 64 * KIB, 0x33)
        self.overlay("top", "two")
        self.write("top", size // 2, 64 * KIB, 0x41)
        self.zero("top", size * 3 // 4, 64 * KIB)
        self.write("top", 512, 512, 0x42)

    def read(self, name: str, format_: str | None = None) -> bytes:
        """Returns what a reader of the chain below ``name`` sees now."""
        flat = self.share / f".flat.{os.getpid()}"
        self._do("qemu-img", "convert", "-q", "-U", "-f", format_ or self.formats[name], "-O", "raw", name, flat.name)
        try:
            return flat.read_bytes()
        finally:
            flat.unlink()

    def check(self, *names: str) -> None:
        """Compares every byte of every file, or of those named, with the model."""
        for name in names or tuple(self.content):
            found = self.read(name)
            assert found == self.content[name], f"{name} differs at byte {_first_difference(found, self.content[name])}"

    def check_clean(self, *names: str) -> None:
        """No corruption and no leaked cluster in any qcow2 file, or in those named."""
        for name in names or tuple(self.content):
            if self.formats[name] == "qcow2":
                self._do("qemu-img", "check", "-q", "-f", "qcow2", name)

    def _put(self, name: str, at: int, data: bytes) -> None:
        old = self.content[name]
        self.content[name] = old[:at] + data + old[at + len(data) :]

    def _io(self, name: str, command: str) -> None:
        self._do("qemu-io", "-f", self.formats[name], "-d", "unmap", "-c", command, name)

    def _do(self, *words: str) -> None:
        subprocess.run(words, cwd=self.share, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def opened(share: Path, name: str, format_: str = "qcow2") -> Iterator[None]:
    """Holds an image and everything behind it open, the image for writing, as a guest does, with its locks."""
    holder = subprocess.Popen(["qemu-io", "-f", format_, name], cwd=share, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdin is not None and holder.stdout is not None
    try:
        holder.stdin.write(b"length\n")
        holder.stdin.flush()
        assert holder.stdout.readline(), "qemu-io did not open the image"
        yield
    finally:
        holder.communicate(b"q\n")


def _first_difference(found: bytes, expected: bytes) -> int:
    for at, (one, other) in enumerate(zip(found, expected, strict=False)):
        if one != other:
            return at
    return min(len(found), len(expected))

"""Writes into an image that nobody has open, through QEMU's own block layer; and damages one by hand."""

import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write(share: Path, name: str, text: bytes) -> None:
    """Writes ``text`` to the beginning of the disk."""
    source = share.parent / "pattern"
    source.write_bytes(text.ljust(4096, b"."))
    command = f"write -s {source} 0 4096"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, name], cwd=share, check=True, capture_output=True)


@contextmanager
def writer(share: Path, name: str, *commands: str) -> Iterator[None]:
    """Writes, and has the file open while the block runs; then dies without closing it."""
    done = ("-c", "length")  # prints something when everything before it is done
    words = ["stdbuf", "-oL", "qemu-io", "-f", "qcow2", *(word for each in commands for word in ("-c", each)), *done]
    started = subprocess.Popen([*words, "-c", "sleep 600000", name], cwd=share, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    try:
        for _each in range(2 * sum(each.startswith("write") for each in commands) + 1):
            started.stdout.readline()
        yield
    finally:
        started.kill()
        started.wait()
        started.stdout.close()


def dead_writer(share: Path, name: str, *commands: str) -> None:
    """Writes, and dies without closing the file."""
    with writer(share, name, *commands):
        pass


def mark(path: Path, incompatible: int = 0, compatible: int = 0) -> None:
    """Sets bits of a version 3 header: incompatible 1 is dirty, 2 corrupt; compatible 1 is lazy counts."""
    with path.open("r+b") as file:
        file.seek(72)
        found = struct.unpack(">QQ", file.read(16))
        file.seek(72)
        file.write(struct.pack(">QQ", found[0] | incompatible, found[1] | compatible))


def entry_of(path: Path, guest_cluster: int) -> int:
    """Where the second-level entry of a guest cluster of 64 KiB lies; it must be there."""
    with path.open("rb") as file:
        file.seek(40)
        (first,) = struct.unpack(">Q", file.read(8))
        file.seek(first + guest_cluster // 8192 * 8)
        (table,) = struct.unpack(">Q", file.read(8))
    return int(table & 0x00FFFFFFFFFFFE00) + guest_cluster % 8192 * 8


def cluster_of(path: Path, guest_cluster: int) -> int:
    """The number of the cluster of the file in which a guest cluster lies."""
    with path.open("rb") as file:
        file.seek(entry_of(path, guest_cluster))
        (entry,) = struct.unpack(">Q", file.read(8))
    return int(entry & 0x00FFFFFFFFFFFE00) >> 16


def cross(path: Path, guest_cluster: int, other: int) -> None:
    """Lets two guest clusters lie in the same place, as after a commit into a file with wrong counts."""
    with path.open("r+b") as file:
        file.seek(entry_of(path, other))
        entry = file.read(8)
        file.seek(entry_of(path, guest_cluster))
        file.write(entry)


def count(path: Path, cluster: int, references: int) -> None:
    """Writes the reference count of one cluster of the file, in the first block of counts."""
    with path.open("r+b") as file:
        file.seek(48)
        (table,) = struct.unpack(">Q", file.read(8))
        file.seek(table)
        (block,) = struct.unpack(">Q", file.read(8))
        file.seek(block + 2 * cluster)
        file.write(struct.pack(">H", references))

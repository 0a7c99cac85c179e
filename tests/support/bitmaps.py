"""Changes bitmaps of a qcow2 file without QEMU."""

import struct
import subprocess
from pathlib import Path

Field = tuple[str, int, tuple[int, int]]
_EXTENSION = 0x23852875
IN_USE = ("IB", 12, (1, 1))  # left by a writer that died
STRANGE_TYPE = ("IB", 12, (2, 9))  # no QEMU knows it
SOUND = ("IB", 12, (2, 1))


def add(path: Path, name: str) -> None:
    subprocess.run(["qemu-img", "bitmap", "--add", "-f", "qcow2", path, name], check=True)


def change(path: Path, field: Field) -> None:
    """Writes ``field`` (format, place in a directory's entry, values) into the first bitmap's entry."""
    format_, place, values = field
    with path.open("r+b") as file:
        head = file.read(1 << 16)
        (at,) = struct.unpack_from(">I", head, 100)  # the extensions follow the header
        while (kind := struct.unpack_from(">II", head, at))[0] != _EXTENSION:
            assert kind[0] != 0, "the file has no bitmaps"
            at += 8 + (kind[1] + 7) // 8 * 8
        (directory,) = struct.unpack_from(">Q", head, at + 24)
        file.seek(directory + place)
        file.write(struct.pack(f">{format_}", *values))

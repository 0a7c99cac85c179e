"""Records the parent images of an adopted disk: files that no volume owns and many guests may read, such as golden images.

What a header names is believed only where it is what was recorded when the disk was adopted (R3). The record is in the working
directory of the share, which nobody else may enter, so whoever reads the share has it: both services, on every host, and a
rebuild.
"""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stillframe.chain import names
from stillframe.chain.image import Parent
from stillframe.errors import BadImage, ChainConflict
from stillframe.host import files, workdir

MOST = 200  # in a row; QEMU would open more
_FIELDS = {"backing": str, "path": str, "format": str, "size": int, "written_ns": int}


def record_name(file: str) -> str:
    """The name of the record for a file, whose own name may be as long as a name can be."""
    return f".parents.{hashlib.sha256(file.encode()).hexdigest()[:32]}"


def recorded(share: Path, file: str) -> tuple[Parent, ...]:
    """Returns the parent images that are recorded of a file, nearest first; none for a file that is named like a volume's.
    Raises BadImage for a record that is none."""
    if names.parse(file) is not None:
        return ()
    found: Any = None
    with suppress(FileNotFoundError), workdir.working(share, make=False) as place:
        try:
            found = files.read_json(place, record_name(file))
        except ValueError as error:
            raise BadImage(f"the record of the parent images of {file} is no JSON document: {error}") from error
    return () if found is None else _read(found, file)


def _read(found: Any, file: str) -> tuple[Parent, ...]:
    rows = found.get("parents") if isinstance(found, dict) and found.get("file") == file else None
    if not isinstance(rows, list) or len(rows) > MOST or not all(_is_row(row) for row in rows):
        raise BadImage(f"the record of the parent images of {file} is damaged; release the disk and adopt it again")
    return tuple(Parent(**row) for row in rows)


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and {key: type(value) for key, value in row.items()} == _FIELDS


def record(share: Path, file: str, found: Sequence[Parent]) -> None:
    """Writes the record of a file, durably; none for no parent image. May be repeated. Raises ShareUnavailable."""
    if not found:
        forget(share, file)
        return
    with workdir.working(share) as place:
        document = {"file": file, "parents": [asdict(each) for each in found]}
        files.write_json(place, record_name(file), document, mode=0o600)


def forget(share: Path, file: str) -> None:
    """Removes the record of a file, if there is one. May be repeated."""
    with suppress(FileNotFoundError), workdir.working(share, make=False) as place:
        files.unlink(place, record_name(file))


def is_recorded(share: Path, file: str) -> bool:
    """Tells whether there is a record of a file, a damaged one too."""
    with suppress(FileNotFoundError), workdir.working(share, make=False) as place:
        return files.exists(place, record_name(file))
    return False


def open_parent(parent: Parent, above: str) -> int:
    """Returns a descriptor of a parent image, for reading. Raises ChainConflict, which names ``above``, when the file is gone
    or is not what was recorded."""
    path = Path(parent.path)
    try:
        # Without links on the way: they could lead to another file, of the same length and time.
        with workdir.held(Path("/"), *path.parent.parts[1:]) as place:
            handle = files.open_regular(place, path.name, links=True)
    except (OSError, BadImage) as error:
        why = error.message if isinstance(error, BadImage) else str(error.strerror)
        raise ChainConflict(changed(parent, above, f"it cannot be opened ({why})")) from error
    found = os.fstat(handle)
    if (found.st_size, found.st_mtime_ns) != (parent.size, parent.written_ns):
        os.close(handle)
        raise ChainConflict(changed(parent, above, "it was written since, or another file has its name"))
    return handle


def changed(parent: Parent, above: str, why: str) -> str:
    """Says that a parent image is not what it was, and what to do."""
    return (
        f"the parent image {parent.path} of {above} is not what it was when the disk was adopted: {why}. What was built on it"
        " may read wrong now. Put the former file back with its time of last write; or, if its content is right all the same,"
        " release the disk and adopt it again"
    )


def flaw(parent: Parent, above: str) -> str | None:
    """Says why a parent image is not what it was, None when it is."""
    try:
        os.close(open_parent(parent, above))
    except ChainConflict as error:
        return error.message
    return None

"""Who uses a file besides us: programs of this host that have it open, and image files whose header names it.

A lock is not enough. QEMU takes none on what it opens with ``locking=off``, other programs take none at all, and an image that
lies closed still needs the file it is based on.
"""

import os
import re
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from stillframe.errors import BadImage, ShareUnavailable
from stillframe.host import files, imports, statx, workdir

Identity = tuple[int, int]  # device and inode: the file itself, whatever name it was opened by
MOST_ENTRIES = 100_000
_QCOW, _QED = b"QFI\xfb", b"QED\0"
_DATA_FILE = 0x44415441
_WORD = re.compile(r"[\w.-]+")


def identity(path: Path) -> Identity | None:
    """Returns which file a path leads to, links followed; None when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def programs(wanted: Collection[Identity]) -> Mapping[Identity, list[str]]:
    """Returns, by file, the programs of this host other than this process that have it open or mapped, as ``name (pid 7)``.

    Only what this user may see is seen: root sees all. A process that ends meanwhile uses nothing. Among what all of them have
    open may be files of another share whose server is away: that is not waited for.
    """
    found: dict[Identity, list[str]] = {}
    for pid in (name for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()):
        for each in set(_opened(pid)) & set(wanted):
            found.setdefault(each, []).append(f"{_program(pid)} (pid {pid})")
    return found


def _opened(pid: str) -> Iterator[Identity]:
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):  # closed meanwhile
                yield statx.device_and_inode(f"/proc/{pid}/fd/{descriptor}")
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/maps").read_bytes().splitlines():
            words = line.split(None, 5)
            if len(words) == 6 and words[4] != b"0":
                major, _, minor = words[3].partition(b":")
                yield os.makedev(int(major, 16), int(minor, 16)), int(words[4])


def _program(pid: str) -> str:
    """A process gives itself its name: nothing of it may reach a terminal unescaped."""
    try:
        text = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "a program"
    return "".join(c if c.isprintable() else "?" for c in text) or "a program"


def readers(share: Path, names: Collection[str], known: Collection[str] = ()) -> Mapping[str, list[str]]:
    """Returns, for each of ``names`` that has any, the files below ``share`` whose header names it as what they are based on,
    as paths below it and whatever they are called. ``known`` are names that are not looked at.

    Each file is opened once, however many names are asked for. A header that does not tell, and a format whose headers are not
    read here, count as soon as the name stands in them: it is better to ask somebody once too often. Raises ShareUnavailable.
    """
    wanted = _Wanted(share, names)
    found: dict[str, list[str]] = {}
    for place, directory, other in _entries(share):
        path = os.path.join(place, other)
        if path in known:
            continue
        try:
            texts = names_in(directory, other)
        except (BadImage, FileNotFoundError):
            continue  # a link is seen where it is used; a special file is based on nothing
        except OSError as error:
            raise ShareUnavailable(f"{path} on the share {share} cannot be read: {error.strerror}") from error
        for name in {each for text in texts for each in wanted.meant(text, place)} - {path}:
            found.setdefault(name, []).append(path)
    return found


def _entries(share: Path) -> Iterator[tuple[str, Path, str]]:
    """Yields every file below the share: the path of its directory below the share, one to that directory itself, which holds
    until the next file, the file's name."""

    def fail(error: OSError) -> None:
        raise error

    count = 0
    with files.share_errors(share):
        for directory, below, entries, handle in os.fwalk(share, onerror=fail):
            place = os.path.relpath(directory, share)
            place, path = "" if place == "." else place, Path(f"/proc/self/fd/{handle}")
            below[:] = sorted(name for name in below if (place, name) != ("", workdir.NAME))
            for name in sorted(entries):
                count += 1
                if count > MOST_ENTRIES:
                    raise ShareUnavailable(f"{share} holds more than {MOST_ENTRIES} files, too many to look at each")
                yield place, path, name


def names_in(directory: Path, name: str) -> list[str]:
    """Returns the names of other files that stand in an image's header, as they are written there; the whole head of one that
    does not tell. Empty for what has the mark of no format: what it holds is its guest's, and is not read. Raises BadImage
    for what is no regular file."""
    head, tail = imports.ends(directory, name, links=True)
    if head.startswith(_QCOW) and len(head) >= 20:
        return [_text(head, *struct.unpack_from(">QI", head, 8)), *_data_files(head)]
    if head.startswith(_QED) and len(head) >= 64:
        return [_text(head, *struct.unpack_from("<II", head, 56))]
    if imports.mark(head, tail) is None:
        return []
    texts = (
        head.replace(b"\0", b" ").decode("latin-1"),
        *(head.decode(each, "replace") for each in ("utf-16-le", "utf-16-be")),
    )
    return [f"json:{text}" for text in texts]


def _text(head: bytes, at: int, length: int) -> str:
    if at == 0:
        return ""
    if at + length > len(head):
        return "json:" + head.decode("latin-1")
    return head[at : at + length].decode("utf-8", errors="surrogateescape")


def _data_files(head: bytes) -> Iterator[str]:
    """The external data file of a qcow2 of version 3, as its header extension names it."""
    version, at = struct.unpack_from(">I", head, 4)[0], 72
    if version >= 3 and len(head) >= 104:
        at = struct.unpack_from(">I", head, 100)[0]
    while version >= 3 and at + 8 <= len(head):
        kind, length = struct.unpack_from(">II", head, at)
        if kind == 0:
            return
        if kind == _DATA_FILE:
            yield head[at + 8 : at + 8 + length].decode("utf-8", errors="surrogateescape")
        at += 8 + (length + 7) // 8 * 8


class _Wanted:
    """Files of a share, found by what a header says: in a time that does not grow with their number."""

    def __init__(self, share: Path, names: Collection[str]) -> None:
        self._share = share
        self._there = identity(share)
        self._above = f"{os.path.normpath(share)}{os.sep}"
        self._names = set(names)
        self._odd = [name for name in self._names if not _WORD.fullmatch(name)]  # no text gives these as one word
        self._files: dict[Identity, list[str]] = {}
        for name in self._names:
            target = identity(share / name)
            if target is not None:
                self._files.setdefault(target, []).append(name)

    def meant(self, text: str, below: str) -> Iterator[str]:
        """Yields what a name in the header of a file in directory ``below`` means. JSON and the like are searched."""
        if text.startswith("json:") or "=" in text.partition("/")[0]:
            yield from self._names.intersection(_WORD.findall(text))
            yield from (name for name in self._odd if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", text))
            return
        path = text.removeprefix("file:")
        if not path or "\0" in path:
            return
        if not os.path.isabs(path):
            path = os.path.normpath(os.path.join(self._share, below, path))
        if path.startswith(self._above):  # elsewhere a header's word is not followed: it may lead to something that hangs
            yield from self._files.get(identity(Path(path)) or (0, 0), ())
        if os.path.basename(path) in self._names:
            there = identity(Path(path).parent)
            if there is None or there == self._there:  # what this host does not have may be the share under another name
                yield os.path.basename(path)

"""Finds who else uses a file: programs of this host that have it open, and image files whose header names it.

A lock is not enough. QEMU takes none on files it opens with ``locking=off``, other programs take none at all, and an image that
nobody has open still needs the file it is based on.
"""

import itertools
import os
import re
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from stillframe.errors import BadImage, ShareUnavailable
from stillframe.host import files, imports, statx, workdir

Identity = tuple[int, int]  # device and inode: the file itself, under whatever name it was opened
MOST_ENTRIES = 100_000
MOST_DEPTH = 64  # directories
_QCOW, _QED = b"QFI\xfb", b"QED\0"
_DATA_FILE = 0x44415441
_WORD = re.compile(r"[\w.-]+")


def identity(path: Path) -> Identity | None:
    """Returns which file a path leads to, following links; None when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def programs(wanted: Collection[Identity]) -> Mapping[Identity, list[str]]:
    """Returns, by file, the programs of this host, other than this process, that have it open or mapped, as ``name (pid 7)``.

    It sees only what this user may see; root sees all. A process that ends meanwhile uses nothing. The programs may have files
    open on another share whose server is away: this does not wait for that server.
    """
    found: dict[Identity, list[str]] = {}
    for pid in (name for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()):
        for each in set(_opened(pid)) & set(wanted):
            found.setdefault(each, []).append(f"{_program(pid)} (pid {pid})")
    return found


def _opened(pid: str) -> Iterator[Identity]:
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):  # the program closed it meanwhile
                yield statx.device_and_inode(f"/proc/{pid}/fd/{descriptor}")
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/maps").read_bytes().splitlines():
            words = line.split(None, 5)
            if len(words) == 6 and words[4] != b"0":
                major, _, minor = words[3].partition(b":")
                yield os.makedev(int(major, 16), int(minor, 16)), int(words[4])


def _program(pid: str) -> str:
    """A process chooses its own name, so no part of it may reach a terminal unescaped."""
    try:
        text = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "a program"
    return "".join(c if c.isprintable() else "?" for c in text) or "a program"


def readers(share: Path, names: Collection[str], known: Collection[str] = ()) -> Mapping[str, list[str]]:
    """Returns, for each of ``names`` that has any, the files below ``share`` whose header names it as what they are based on.
    They are given as paths below the share, whatever they are called.

    ``known`` are names that are not read. Each file is opened once, however many names are asked for. If a header is unclear,
    or its format is not one that is read here, the file counts as soon as the name appears in its first bytes: it is better to
    ask somebody once too often. Raises ShareUnavailable.
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
            continue  # a link counts where it is used; a special file is based on nothing
        except OSError as error:
            raise ShareUnavailable(f"{path} on the share {share} cannot be read: {error.strerror}") from error
        for name in {each for text in texts for each in wanted.meant(text, place)} - {path}:
            found.setdefault(name, []).append(path)
    return found


def _entries(share: Path) -> Iterator[tuple[str, Path, str]]:
    """Yields every file below the share: the path of its directory below the share, a path to that directory itself that is
    valid until the next file, and the file's name.

    Each directory is opened from the share down, as a directory and without following links. ``os.fwalk`` opens whatever has
    the name by then (Python 3.11): a pipe, which it waits for without end, or a device.
    """
    count = 0
    pending: list[tuple[str, ...]] = [()]
    with files.share_errors(share):
        while pending:
            below = pending.pop()
            with _entered(share, below) as directory:
                inner, others = _listed(directory, MOST_ENTRIES - count)
                count += len(inner) + len(others)
                if count > MOST_ENTRIES:
                    raise ShareUnavailable(f"{share} holds more than {MOST_ENTRIES} files, too many to check each")
                for name in sorted(others):
                    yield "/".join(below), directory, name
            pending += [(*below, name) for name in sorted(inner, reverse=True) if (*below, name) != (workdir.NAME,)]


def _listed(directory: Path, most: int) -> tuple[list[str], list[str]]:
    """Returns the names of directories and of everything else, of ``most`` entries and one more."""
    inner: list[str] = []
    others: list[str] = []
    with os.scandir(directory) as found:
        for entry in itertools.islice(found, most + 1):
            (inner if entry.is_dir(follow_symlinks=False) else others).append(entry.name)
    return inner, others


@contextmanager
def _entered(share: Path, below: tuple[str, ...]) -> Iterator[Path]:
    if len(below) > MOST_DEPTH:
        raise ShareUnavailable(f"{share} holds directories in more than {MOST_DEPTH} levels, too many to look into each")
    try:
        with workdir.held(share, *below) as directory:
            yield directory
    except BadImage as error:
        raise ShareUnavailable(f"{share} changed while it was looked at: {error.message}") from error


def names_in(directory: Path, name: str) -> list[str]:
    """Returns the names of other files in an image's header, as they are written there. If the header is unclear, it returns
    the whole text of the first bytes.

    Empty for a file that has the mark of no format: its content belongs to a guest and is not read. Raises BadImage for what is
    not a regular file.
    """
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
    """The external data file that a header extension of a qcow2 file of version 3 names."""
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
    """Files of a share, found by what a header says. The time for that does not grow with the number of files."""

    def __init__(self, share: Path, names: Collection[str]) -> None:
        self._share = share
        self._there = identity(share)
        self._above = f"{os.path.normpath(share)}{os.sep}"
        self._names = set(names)
        # No text gives the odd ones as one word. They are found by their longest, and then by the others: to look for each of
        # them in each text took hours where somebody had made a thousand such files.
        self._odd: dict[str, list[tuple[str, frozenset[str]]]] = {}
        for name in self._names:
            if not _WORD.fullmatch(name):
                words = _WORD.findall(name)
                self._odd.setdefault(max(words, key=len, default=""), []).append((name, frozenset(words)))
        self._files: dict[Identity, list[str]] = {}
        for name in self._names:
            target = identity(share / name)
            if target is not None:
                self._files.setdefault(target, []).append(name)

    def meant(self, text: str, below: str) -> Iterator[str]:
        """Yields the files that a name in the header of a file in directory ``below`` means. A name in JSON or the like is
        searched."""
        if text.startswith("json:") or "=" in text.partition("/")[0]:
            words = {"", *_WORD.findall(text)}
            yield from self._names & words
            yield from (name for word in self._odd.keys() & words for name, its in self._odd[word] if its <= words)
            return
        path = text.removeprefix("file:")
        if not path or "\0" in path:
            return
        if not os.path.isabs(path):
            path = os.path.normpath(os.path.join(self._share, below, path))
        if path.startswith(self._above):  # a path elsewhere is not followed, because it may lead to something that hangs
            yield from self._files.get(identity(Path(path)) or (0, 0), ())
        if os.path.basename(path) in self._names:
            there = identity(Path(path).parent)
            if there is None or there == self._there:  # a path that this host does not have may be the share under another name
                yield os.path.basename(path)

"""Lists of shares as Cinder's operators write them: ``nfs_shares_config`` and ``glusterfs_shares_config``.

One export a line, ``host:/path`` or ``[v6 address]:/path``, then ``-o option,option`` if wanted; blank lines, and lines that
begin with ``#``. Cinder passes the rest of a line to mount as it is; here every word is known or refused.
"""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stillframe.errors import BadConfiguration

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_PATH = re.compile(r"/[A-Za-z0-9._~+@%=/-]{1,1022}")
_OPTION = re.compile(r"[A-Za-z0-9_-]+(?:=[A-Za-z0-9._:/@\[\]-]+)?")
_UNSAFE = {
    "suid": "files on a share are data, never programs",
    "dev": "files on a share are data, never devices",
    "exec": "files on a share are data, never programs",
    "ro": "a read-only share can hold no volumes",
    "remount": "it would change a mount that is in use",
    "bind": "it would mount a local directory in place of the share",
    "rbind": "it would mount a local directory in place of the share",
}


@dataclass(frozen=True)
class Export:
    """One share: the export as it stands in the list, letter by letter, and the mount options wanted for it."""

    export: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Allowed:
    """The mount options a kind of share takes: names that are fine, and names that are not, with the reason."""

    names: frozenset[str]
    refused: Mapping[str, str]

    def check(self, options: Sequence[str]) -> tuple[str, ...]:
        """Returns the options. Raises BadConfiguration naming the first that cannot be taken, and why."""
        for option in options:
            name = option.partition("=")[0]
            reason = self.refused.get(name) or self.refused.get(option) or _UNSAFE.get(name)
            if reason:
                raise BadConfiguration(f"mount option {option!r} is refused: {reason}")
            if name not in self.names or not _OPTION.fullmatch(option):
                raise BadConfiguration(f"mount option {option!r} is not one of those taken: {', '.join(sorted(self.names))}")
        return tuple(options)


def read(path: Path, allowed: Allowed) -> list[Export]:
    """Reads a list of shares. Raises BadConfiguration naming the file, the line and what is wrong with it."""
    try:
        lines = path.read_text(encoding="ascii").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"the list of shares {path} cannot be read: {error}") from error
    found: dict[str, Export] = {}
    for number, line in enumerate(lines, 1):
        words = line.rstrip("\r").strip(" \t")
        if not words or words.startswith("#"):
            continue
        try:
            export = _parse(words, allowed)
            if found.setdefault(export.export.rstrip("/"), export) is not export:
                raise BadConfiguration(f"the share {export.export} is listed already")
        except BadConfiguration as error:
            raise BadConfiguration(f"{path}, line {number}: {error.message}") from error
    if not found:
        raise BadConfiguration(f"the list of shares {path} names no share")
    return list(found.values())


def split_options(text: str) -> list[str]:
    """Splits ``-o a,b -o c``, or ``a,b`` as Cinder's ``nfs_mount_options`` has it. Raises BadConfiguration."""
    words = text.split()
    if words and not words[0].startswith("-"):
        words = ["-o", *words]
    if len(words) % 2 or any(word != "-o" for word in words[::2]):
        raise BadConfiguration(f"{text!r} is not of the form -o option,option")
    return [option for word in words[1::2] for option in word.split(",") if option]


def merge(base: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """Returns both lists of options as one; of options with the same name the wanted one stays."""
    named = {option.partition("=")[0]: option for option in (*base, *wanted)}
    return tuple(named.values())


def required(path: str | None, option: str) -> Path:
    """Returns an option's path. Raises BadConfiguration when the option is not set or its path is not absolute."""
    if not path or not Path(path).is_absolute():
        raise BadConfiguration(f"the option {option} must name a file by its whole path, not {path!r}")
    return Path(path)


def as_argument(options: Sequence[str]) -> str | None:
    """Returns options as Cinder passes them to Nova and os-brick in ``connection_info``: ``-o a,b``, or None."""
    return f"-o {','.join(options)}" if options else None


def _parse(words: str, allowed: Allowed) -> Export:
    export, *rest = words.split(None, 1)
    if rest and not rest[0].startswith("-o"):
        raise BadConfiguration(f"{rest[0]!r} is not of the form -o option,option")
    return Export(_check_export(export), allowed.check(split_options(rest[0]) if rest else []))


def _check_export(export: str) -> str:
    host, separator, path = export.rpartition(":")
    if not separator or not _is_host(host):
        raise BadConfiguration(f"{export!r} is not of the form host:/path or [v6 address]:/path")
    if not _PATH.fullmatch(path) or ".." in path.split("/") or "//" in path:
        raise BadConfiguration(f"the path of {export!r} is not a plain absolute one (letters, digits and ._~+@%=/- are taken)")
    return export


def _is_host(host: str) -> bool:
    if not (host.startswith("[") and host.endswith("]")):
        return _HOST.fullmatch(host) is not None
    try:
        ipaddress.IPv6Address(host[1:-1])
    except ValueError:
        return False
    return True

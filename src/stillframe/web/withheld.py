"""Hides from members of a project where the host keeps things.

Messages name directories and exports, because the operator of the host needs them: they are in the log, in the rows and in
``stillframe operation show``. On the way to anybody else a directory becomes words, and a file its name. A client's own texts
(names, metadata) are never changed.
"""

import re
import tempfile
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from stillframe.config import Settings

_SHARE, _STORE, _OWN = "the volume's share", "the backup store", "a directory of the service"
_SCRATCH = "the scratch directory"
_BEFORE = r"(?P<before>the (?:share|directory|backup directory) )?(?<![\w/.~-])"
_BELOW = r"""(?![\w-]|\.\w)(?P<below>(?:/[^\s'",;:/]+)*)/?"""
_MOUNTED = "/[0-9a-f]{32}"  # the name of a mount point below its base (host/mounts.py)
# Shares that are not in this service's configuration: another service of ours named them.
_EXPORT = r"""(?:[A-Za-z0-9][\w.-]*|\[[0-9A-Fa-f:.]+\]):/[^/\s,;:'"][^\s,;:'"]*"""
_OTHERS = re.compile(rf"""the (?:share|directory) (?:/[^\s,;:'"]+|{_EXPORT})|(?<![\w/.-]){_EXPORT}""")
_NAMES = """
fault fail_reason error last_error retention_error retention_note warnings reason degraded_reason note message user_message why
switched_at_note explanation deletion
"""  # keys of an answer under which everything is the service's own text
_SAID = frozenset(_NAMES.split())
_THEIRS = frozenset(("name", "description", "metadata", "volume_image_metadata"))


Known = Callable[[], re.Pattern[str] | None]


class Withheld:
    """Replaces the directories that the configuration names by words, and those that ``adopted`` tells: of disks that became
    volumes where they were. That is asked once for each answer in which a text has a slash left."""

    def __init__(self, settings: Settings, adopted: Callable[[], Collection[str]] = tuple) -> None:
        self._adopted = adopted
        found = _directories(settings)
        longest = sorted(found, key=len, reverse=True)
        self._words = {f"r{number}": found[each] for number, each in enumerate(longest)}
        roots = "|".join(f"(?P<r{number}>{each})" for number, each in enumerate(longest))
        self._known = re.compile(f"{_BEFORE}(?:{roots}){_BELOW}")

    def text(self, words: str) -> str:
        return self._text(words, self._of_adopted)

    def document(self, answer: Any, said: bool = False) -> Any:
        """Returns an answer with the service's own texts changed in this way. ``said``: all of it is the service's own text."""
        return self._document(answer, said, cache(self._of_adopted))

    def _document(self, answer: Any, said: bool, adopted: Known) -> Any:
        if isinstance(answer, str):
            return self._text(answer, adopted) if said else answer
        if isinstance(answer, Mapping):
            return {
                name: each if name in _THEIRS else self._document(each, said or name in _SAID, adopted)
                for name, each in answer.items()
            }
        if isinstance(answer, list | tuple):
            return [self._document(each, said, adopted) for each in answer]
        return answer

    def _text(self, words: str, adopted: Known) -> str:
        told = _OTHERS.sub(_SHARE, self._known.sub(self._replaced, words))
        found = adopted() if "/" in told else None
        return found.sub(self._replaced, told) if found else told

    def _of_adopted(self) -> re.Pattern[str] | None:
        places = sorted(self._adopted(), key=len, reverse=True)
        return re.compile(f"{_BEFORE}(?:{'|'.join(map(re.escape, places))}){_BELOW}") if places else None

    def _replaced(self, found: re.Match[str]) -> str:
        if found["below"]:
            return f"{found['before'] or ''}{found['below'].rpartition('/')[2]}"
        named = found.groupdict()
        return next((words for name, words in self._words.items() if named.get(name) is not None), _SHARE)


def _directories(settings: Settings) -> dict[str, str]:
    """Returns expressions for directories, with the words for them. There are none for the other service's sections, where the
    services run apart: exports and shares there are recognized by their form."""
    found = {re.escape(str(settings.state_dir)): _OWN, r"/proc/self/fd/\d+": _OWN}
    found[rf"{re.escape(tempfile.gettempdir())}/stillframe-[\w-]+"] = _OWN
    bases = {str(settings.state_dir / "mnt")}
    if settings.reads("compute"):
        bases.add(settings.compute.mount_point_base)
        found[re.escape(str(settings.scratch_dir))] = _SCRATCH
    if settings.reads("volumes"):
        found |= _of_block_storage(settings)
        for options in settings.backends.values():
            bases |= {options.nfs_mount_point_base, options.glusterfs_mount_point_base}
    return found | {re.escape(str(Path(base).absolute())) + _MOUNTED: _SHARE for base in bases if base}


def _of_block_storage(settings: Settings) -> dict[str, str]:
    found = {re.escape(str(settings.staging_dir)): _OWN, re.escape(str(settings.share_dir)): _SHARE}
    for options in settings.backends.values():
        if options.share_dir:
            found[re.escape(str(Path(options.share_dir).absolute()))] = _SHARE
    store = urlsplit(settings.backup_url)
    if store.scheme == "file":
        found[re.escape(unquote(store.path).rstrip("/"))] = _STORE
    return found

"""Hides from members of a project where the host keeps things.

Messages name directories and exports, because the operator of the host needs them: they are in the log, in the rows and in
``stillframe operation show``. On the way to anybody else a directory becomes words, and a file its name. A client's own texts
(names, metadata) are never changed.
"""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from stillframe.config import Settings

_SHARE, _STORE, _OWN = "the volume's share", "the backup store", "a directory of the service"
_BEFORE = r"(?P<before>the (?:share|directory|backup directory) )?(?<![\w/.~-])"
_BELOW = r"""(?![\w-]|\.\w)(?P<below>(?:/[^\s'",;:/]+)*)/?"""
_MOUNTED = "/[0-9a-f]{32}"  # the name of a mount point below its base (host/mounts.py)
# Shares that are not in this service's configuration: another service of ours named them.
_EXPORT = r"""(?:[A-Za-z0-9][\w.-]*|\[[0-9A-Fa-f:.]+\]):/[^/\s,;:'"][^\s,;:'"]*"""
_OTHERS = re.compile(rf"""the (?:share|directory) (?:/[^\s,;:'"]+|{_EXPORT})|(?<![\w/.-]){_EXPORT}""")
_NAMES = """
fault fail_reason error last_error retention_error retention_note warnings reason degraded_reason note message why
switched_at_note explanation deletion
"""  # keys of an answer under which everything is the service's own text
_SAID = frozenset(_NAMES.split())
_THEIRS = frozenset(("name", "description", "metadata", "volume_image_metadata"))


class Withheld:
    """Replaces the directories that the configuration names by words."""

    def __init__(self, settings: Settings) -> None:
        found = _directories(settings)
        longest = sorted(found, key=len, reverse=True)
        self._words = {f"r{number}": found[each] for number, each in enumerate(longest)}
        roots = "|".join(f"(?P<r{number}>{each})" for number, each in enumerate(longest))
        self._known = re.compile(f"{_BEFORE}(?:{roots}){_BELOW}")

    def text(self, words: str) -> str:
        return _OTHERS.sub(_SHARE, self._known.sub(self._replaced, words))

    def document(self, answer: Any, said: bool = False) -> Any:
        """Returns an answer with the service's own texts changed in this way. ``said``: all of it is the service's own text."""
        if isinstance(answer, str):
            return self.text(answer) if said else answer
        if isinstance(answer, Mapping):
            return {
                name: each if name in _THEIRS else self.document(each, said or name in _SAID) for name, each in answer.items()
            }
        if isinstance(answer, list | tuple):
            return [self.document(each, said) for each in answer]
        return answer

    def _replaced(self, found: re.Match[str]) -> str:
        if found["below"]:
            return f"{found['before'] or ''}{found['below'].rpartition('/')[2]}"
        return next(words for name, words in self._words.items() if found[name] is not None)


def _directories(settings: Settings) -> dict[str, str]:
    """Returns expressions for directories, with the words for them. There are none for the other service's sections, where the
    services run apart: exports and shares there are recognized by their form."""
    found = {re.escape(str(settings.state_dir)): _OWN, r"/proc/self/fd/\d+": _OWN}
    found[rf"{re.escape(tempfile.gettempdir())}/stillframe-[\w-]+"] = _OWN
    bases = {str(settings.state_dir / "mnt")}
    if settings.reads("compute"):
        bases.add(settings.compute.mount_point_base)
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

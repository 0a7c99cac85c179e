"""Files made to harm whoever opens them, built from bytes after docs/interop/qcow2.txt, and what must happen to each.

``battery()`` is all of them. Each is built into a ``Place``: a directory, a name, a canary file outside whose content must
never be seen, and a port on which nobody may knock. What the cases stand for is in the words of past vulnerabilities:
backing names (CVE-2014-3641, OSSA-2011-001), external data files (CVE-2024-32498), json: (CVE-2024-4467), VMDK extents
(CVE-2022-47951), guest-written headers on raw volumes (CVE-2015-5163, CVE-2024-40767), tables out of bounds
(CVE-2014-0142 and others), a header that crashes qemu-img 7.2 (crypt method 2 without a crypto header).
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

CANARY = b"the canary must never be seen!!\n" * 4096


class Fate(Enum):
    """What must happen to a file.

    REFUSE: our own error before any program is started. BYTES_ONLY: it is the content of a raw disk, copied as it is and
    never understood. CONTAINED: its header is honest and QEMU may open it; whatever it answers, nothing else is read.
    """

    REFUSE = "refuse"
    BYTES_ONLY = "bytes only"
    CONTAINED = "contained"


@dataclass(frozen=True)
class Place:
    """Where a hostile file is built and what it aims at. ``port`` is one of 127.0.0.1."""

    directory: Path
    name: str
    canary: Path
    port: int

    @property
    def path(self) -> Path:
        return self.directory / self.name


@dataclass(frozen=True)
class Hostile:
    """One case. ``format`` is the recorded format of the file.

    ``alone``: the file by itself is honest and only its chain is not, so a verb that opens no other file may open it.
    ``header_only``: the header is honest and only what it points to is not, so that reading just the header accepts it.
    ``importable``: as an uploaded image declared in its format it is accepted, because it can harm nobody but itself.
    """

    name: str
    build: Callable[[Place], None]
    fate: Fate = Fate.REFUSE
    format: str = "qcow2"
    alone: bool = False
    header_only: bool = False
    importable: bool = False


def battery() -> tuple[Hostile, ...]:
    """Returns every case; names are unique."""
    # Imported late: those modules are made of the classes above.
    from tests.support import hostile_entries, hostile_foreign, hostile_headers, hostile_tables

    return (*hostile_headers.cases(), *hostile_tables.cases(), *hostile_entries.cases(), *hostile_foreign.cases())

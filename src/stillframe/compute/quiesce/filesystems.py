"""Which filesystems of a guest lie on which disk, which cannot be frozen, and what may be claimed for each disk. Pure.

A filesystem without ``freeze_fs`` and ``freeze_super`` answers FIFREEZE with EOPNOTSUPP (Linux 6.1, fs/ioctl.c). qemu-ga 7.2
skips it silently and only counts less (F24). So a filesystem that cannot be frozen is recognised by its type, or by the count
if the type is not known. Names and types come from the guest (R23): they are shown, and never used as a path.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

READ_ONLY = frozenset({"squashfs", "iso9660", "erofs", "cramfs", "romfs"})  # nothing is ever written to them
FREEZABLE = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "nilfs2", "reiserfs", "gfs2", "gfs2meta", "bcachefs"}
)
UNFREEZABLE = frozenset(
    {"vfat", "msdos", "umsdos", "exfat", "ntfs", "ntfs3", "fuseblk", "hfs", "hfsplus", "udf", "ocfs2", "minix", "affs", "adfs"}
    | {"bfs", "befs", "efs", "hpfs", "omfs", "qnx4", "qnx6", "sysv", "ufs", "vxfs"}
)
NO_FILESYSTEM = "no mounted filesystem on this disk, so its writes were not held back by a freeze"
MOST_TOLD = 5
MOST_LISTED = 64
LISTED_BYTES = 12 << 10  # of names, as JSON: one letter of a guest's can be twelve bytes of it
NAME_LENGTH = 120


@dataclass(frozen=True)
class Filesystem:
    """One mounted filesystem: every point it is mounted at, the first first. ``targets`` empty: the agent names no disk, as for
    a loop device."""

    points: tuple[str, ...]
    type: str
    targets: tuple[str, ...]

    def __str__(self) -> str:
        words = "".join(letter if letter.isprintable() else "?" for letter in f"{self.type} filesystem {self.points[0]}")
        return words if len(words) <= NAME_LENGTH else f"{words[:NAME_LENGTH]}..."

    def is_allowed(self, names: Iterable[str]) -> bool:
        """Tells whether one of the names is its type or one of its mount points."""
        return not {self.type, *self.points}.isdisjoint(names)


def merged(found: Sequence[tuple[str, str, str, tuple[str, ...]]]) -> tuple[Filesystem, ...]:
    """Merges the entries of a filesystem that is mounted more than once. ``found``: mount point, guest device, type and disk
    targets each."""
    by_device: dict[str, Filesystem] = {}
    for point, device, kind, targets in found:
        known = by_device.get(device)
        by_device[device] = Filesystem((*known.points, point) if known else (point,), kind.lower(), targets)
    return tuple(by_device.values())


@dataclass(frozen=True)
class Layout:
    """The filesystems of a guest, seen from the disks ``targets`` of a set. ``unknown`` says why the agent cannot list them."""

    targets: tuple[str, ...]
    found: tuple[Filesystem, ...] = ()
    by_point: bool = True  # the agent freezes only those that are named; otherwise it freezes all
    unknown: str | None = None
    allowed: tuple[str, ...] = ()  # mount points and types of what need not be frozen
    experience: frozenset[str] = frozenset()  # what earlier freezes skipped, as ``str`` writes it

    def _cannot(self, filesystem: Filesystem) -> bool:
        """Returns the filesystems of unknown type: they are tried, and the count shows the result, which is remembered."""
        strange = filesystem.type not in FREEZABLE and str(filesystem) in self.experience
        return filesystem.type in UNFREEZABLE or strange

    def _concerns(self, filesystem: Filesystem) -> bool:
        """A filesystem on no known disk may lie on any."""
        return not filesystem.targets or not set(filesystem.targets).isdisjoint(self.targets)

    @property
    def to_freeze(self) -> tuple[Filesystem, ...]:
        """The mounted filesystems that the freeze is to reach."""
        return tuple(
            each
            for each in self.found
            if not self._cannot(each) and each.type not in READ_ONLY and (not self.by_point or self._concerns(each))
        )

    @property
    def mountpoints(self) -> tuple[str, ...] | None:
        """What the agent is told to freeze; None: all."""
        return tuple(each.points[0] for each in self.to_freeze) if self.by_point and self.unknown is None else None

    @property
    def left(self) -> tuple[Filesystem, ...]:
        """Returns the set's filesystems that cannot be frozen, by their type or by experience."""
        return tuple(each for each in self.found if self._cannot(each) and self._concerns(each))

    def is_allowed(self, unfrozen: Iterable[Filesystem]) -> bool:
        """Tells whether each of these may stay unfrozen without the set being refused or degraded."""
        return all(each.is_allowed(self.allowed) for each in unfrozen)

    @property
    def not_allowed(self) -> str | None:
        """Says which filesystems prevent ``required``, and what to do; None when none does."""
        names = [f"the {each}{_where(each)}" for each in self.left if not each.is_allowed(self.allowed)]
        if not names:
            return None
        return (
            f"{_some(names)} cannot be frozen; name mount points or types in allow_unfreezable of the request or of the"
            " server's settings, unmount them, leave their volumes out, or ask with quiesce=preferred"
        )

    def passed_over(self, count: int) -> tuple[Filesystem, ...] | None:
        """Returns what was not frozen when the agent froze ``count``; None when that cannot be known."""
        missing = len(self.to_freeze) - count
        if missing <= 0:
            return self.left
        strange = tuple(each for each in self.to_freeze if each.type not in FREEZABLE)
        return (*self.left, *(each for each in strange if self._concerns(each))) if missing == len(strange) else None

    def judged(self, unfrozen: Sequence[Filesystem]) -> dict[str, "Disk"]:
        """Returns what may be claimed for each disk when all but ``unfrozen`` were frozen."""
        return {target: self._disk(target, unfrozen) for target in self.targets}

    def _disk(self, target: str, unfrozen: Sequence[Filesystem]) -> "Disk":
        own = [each for each in self.found if target in each.targets]
        frozen = tuple(str(each) for each in own if each not in unfrozen and each.type not in READ_ONLY)
        left = [each for each in unfrozen if target in each.targets or not each.targets]
        if left:
            names = [f"the {each} on {'this disk' if each.targets else 'an unknown disk'}" for each in left]
            return Disk(frozen, tuple(map(str, left)), f"{_some(names)} cannot be frozen")
        return Disk(frozen, (), None if own else NO_FILESYSTEM)


@dataclass(frozen=True)
class Disk:
    """What was frozen on one disk and what was not; ``reason`` says why it is not called filesystem-consistent."""

    frozen: tuple[str, ...]
    unfrozen: tuple[str, ...] = ()
    reason: str | None = None

    def document(self) -> dict[str, list[str]]:
        """As the API shows it: no more names than fit. It is sent to block storage after the switch, so it must fit in a
        request, whatever the guest calls its filesystems."""
        return {"frozen": _listed(self.frozen), "not_frozen": _listed(self.unfrozen)}


def _listed(names: Sequence[str]) -> list[str]:
    left, found = LISTED_BYTES, list[str]()
    for name in names[:MOST_LISTED]:
        left -= len(json.dumps(name))
        if left < 0:
            break
        found.append(name)
    return found


def told_of_set(disks: Mapping[str, Disk]) -> str | None:
    """The set's reason: each disk that has a filesystem which was not frozen. A disk without any has a reason of its own."""
    reasons = [f"{disk.reason.replace('this disk', target)}" for target, disk in disks.items() if disk.unfrozen and disk.reason]
    if reasons:
        return _some(list(dict.fromkeys(reasons)))
    if not any(disk.reason is None for disk in disks.values()):
        return next((disk.reason for disk in disks.values()), None)
    return None


def _where(each: Filesystem) -> str:
    return f" on {', '.join(each.targets)}" if each.targets else " on an unknown disk"


def _some(words: list[str]) -> str:
    more = len(words) - MOST_TOLD
    return " and ".join(words[:MOST_TOLD]) + (f" and {more} more" if more > 0 else "")

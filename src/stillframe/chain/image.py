"""One image file and one backing chain, as values, and what makes a chain valid."""

from dataclasses import dataclass

from stillframe.chain import names
from stillframe.errors import ChainConflict

SECTOR = 512


@dataclass(frozen=True)
class Parent:
    """A parent image that no volume owns: a file anywhere on the host that the file above it names as ``backing``, exactly so.
    ``format`` is recorded, as ``size`` and ``written_ns`` are: the file's length in bytes and the time of its last write."""

    backing: str
    path: str
    format: str
    size: int
    written_ns: int


@dataclass(frozen=True)
class Image:
    """What a file's header says. ``size`` is the virtual size in bytes; ``backing`` a plain file name or None.

    ``parents`` are what an adopted base reads through, nearest first. They are no files of the volume, so ``backing`` is None
    then: nothing is ever merged into them, and the base stays on top of them."""

    name: str
    format: str
    size: int
    backing: str | None = None
    backing_format: str | None = None
    parents: tuple[Parent, ...] = ()

    @property
    def disk_size(self) -> int:
        """In bytes, what a guest is shown and an overlay must have: QEMU counts in sectors of 512 bytes, and fills the last one
        of a raw file up with zeros (7.2)."""
        return -(-self.size // SECTOR) * SECTOR

    def __str__(self) -> str:
        """As messages name it."""
        on = f", on {self.backing} ({self.backing_format})" if self.backing else ""
        return f"{self.name} ({self.format}, {self.size} bytes{on})"


@dataclass(frozen=True)
class Chain:
    """The files of one volume from the base (first) to the active file (last)."""

    volume_id: str
    images: tuple[Image, ...]

    @property
    def active(self) -> Image:
        return self.images[-1]

    @property
    def base(self) -> Image:
        return self.images[0]

    @property
    def depth(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Recorded:
    """What block storage records of a volume's files that their names do not tell: the other volume's file that the lowest file
    of a linked clone is backed by, and the name of an adopted volume's base."""

    parent_image: str | None = None
    base_file: str | None = None


ORDINARY = Recorded()


def check(chain: Chain, recorded: Recorded = ORDINARY) -> Chain:
    """Returns the chain if it is valid; raises ChainConflict naming the first file that is not."""
    if not chain.images:
        raise ChainConflict(f"volume {chain.volume_id} has no file")
    below: Image | None = None
    for image in chain.images:
        names.check_belongs(image.name, chain.volume_id, recorded.base_file)
        if below is None and recorded.parent_image is not None and image.backing == recorded.parent_image:
            below = image  # what lies below is the other volume's
            continue
        check_link(chain.volume_id, image, below)
        below = image
    if len({image.name for image in chain.images}) != chain.depth:
        raise ChainConflict(f"volume {chain.volume_id} has a loop in its backing chain")
    return chain


def check_link(volume_id: str, image: Image, below: Image | None) -> None:
    """Raises ChainConflict unless ``image`` is backed by ``below`` and says so rightly."""
    expected = below.name if below else None
    if image.backing != expected:
        raise ChainConflict(f"{image.name} of volume {volume_id} names {image.backing!r} as its backing file, not {expected!r}")
    if below is None:
        return
    if image.backing_format != below.format:
        raise ChainConflict(f"{image.name} calls its backing file {image.backing_format!r}, but it is {below.format!r}")
    if image.size < below.size:
        raise ChainConflict(
            f"{image.name} has {image.size} bytes, less than its backing file's {below.size}: the disk would shrink"
        )

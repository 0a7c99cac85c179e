"""What every share and every kind of backend promises. "May be repeated": the same call again has the same outcome.

A kind of backend (``local``, ``nfs``, ``glusterfs``, ``iscsi``) says where its shares are and what they can do, mounts them,
and tells a hypervisor how to reach a volume. What happens on a mounted share is the same for all of them (``directory``), but
for what its capabilities change (``native``).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stillframe.chain.image import Image
from stillframe.host.copies import Source
from stillframe.volumes.storage.drivers.shares_config import Export
from stillframe.volumes.storage.drivers.targets import Targets


@dataclass(frozen=True)
class Capabilities:
    """What the shares of a kind can do. Whoever plans looks here, never at the kind's name.

    ``chains``: snapshots are QCOW2 overlays; without, every file is raw and stands alone, and ``native_snapshots`` must be.
    ``native_snapshots``: ``clone`` copies a file at one instant, in a time that does not depend on its size, also while the
    volume is in use. ``undo_revert``: a revert can be undone. ``exported``: a hypervisor reaches a volume through a target
    that exists while it is attached; without, it opens the volume's file itself. ``here``: the share is a directory of this
    host, not mounted from elsewhere.
    """

    chains: bool = True
    native_snapshots: bool = False
    undo_revert: bool = True
    exported: bool = False
    here: bool = False


CHAINS = Capabilities()


class Kind(Protocol):
    """One kind of backend: a module."""

    @property
    def CAPABILITIES(self) -> Capabilities:
        """What its shares can do."""

    def shares(self, section: Any) -> list[Export]:
        """The shares a configuration section names. Raises BadConfiguration."""

    def prepare(self, export: Export, mount_point_base: Path) -> Path:
        """Mounts the share unless it is; returns its directory. May be repeated. Raises ShareUnavailable."""


class FileKind(Kind, Protocol):
    """A kind whose volumes' files a hypervisor opens itself."""

    def connection_info(
        self, export: str, options: Sequence[str], active_file: str, format_: str, mount_point_base: Path
    ) -> dict[str, Any]:
        """What a hypervisor needs: driver_volume_type, export, name, format, options, mount_point_base."""


class TargetKind(Kind, Protocol):
    """A kind whose volumes are given out through targets."""

    def targets(self, section: Any, key_file: Path) -> Targets:
        """Returns what gives the volumes of a backend out; ``key_file`` holds what passwords are made from."""


class Share(Protocol):
    """One mounted share. All methods raise ShareUnavailable when it does not answer, is full, or is another share; none takes a
    missing answer for a missing file. Names are plain file names of the volume, else BadImage. Sizes are bytes."""

    @property
    def path(self) -> Path:
        """The directory."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    def format_of(self, name: str, base_format: str) -> str:
        """Returns the format of a volume's file; ``base_format`` is what its row says of the base."""

    def probe(self) -> None:
        """Raises ShareUnavailable unless the share answers in time and carries the expected marker."""

    def probe_for_writing(self, needed: int = 0) -> None:
        """As ``probe``; also when less than ``needed`` bytes are free beyond those always kept."""

    def images(self, volume_id: str, base_format: str) -> Mapping[str, Image]:
        """Every file of the volume, by name, as its header says; a raw base by its length alone. Raises BadImage."""

    def image(self, name: str, format_: str) -> Image:
        """Returns what one file's header says. Raises BadImage, FileNotFoundError."""

    def create(self, volume_id: str, image: Image, token: str) -> None:
        """Publishes an empty file. May be repeated with the same token; a crash leaves it whole or not at all."""

    def create_overlay(self, volume_id: str, image: Image, token: str) -> None:
        """Publishes an empty overlay on ``image.backing``. As ``create``."""

    def copy(self, volume_id: str, source: Source, image: Image, token: str) -> None:
        """Publishes a full, verified copy of what a reader of ``source`` sees; larger than it where ``image.size`` is.
        With ``image.backing`` an overlay that holds everything itself. As ``create``."""

    def clone(self, volume_id: str, source: str, image: Image, token: str) -> None:
        """Publishes a raw file that reads as the file ``source`` of a volume does at this instant, and as zeros behind its end.
        With ``native_snapshots`` only. As ``create``."""

    def copy_out(self, source: Source, target: Path, format_: str, compress: bool) -> None:
        """Writes a full copy into a file outside the share, durably. May be repeated."""

    def copy_layer_out(self, source: Source, target: Path, backing: str, above: str | None = None) -> None:
        """Writes in what the source differs from ``above`` into one compressed overlay outside the share, which names
        ``backing``. ``above`` is a file behind the source, the nearest by default; without ``chains`` any file of the volume.
        May be repeated."""

    def differing(self, name: str, above: str) -> int:
        """Bytes that ``copy_layer_out`` may have to store, at most: those that a reader of ``name`` finds in it and in the
        files behind it down to ``above``, without that one."""

    def commit(self, volume_id: str, top: str, base: str) -> None:
        """Merges (base, top] down into ``base``, durably; the files above it keep their content. Refuses (ChainConflict)
        where another file reads one that changes (I2). May be repeated."""

    def pull(self, volume_id: str, name: str, backing: str | None, backing_format: str | None) -> None:
        """Copies what lies between ``name`` and ``backing`` up into ``name``, durably. May be repeated."""

    def repoint(self, volume_id: str, name: str, backing: str, backing_format: str) -> None:
        """Names another backing file in a header; the content read must be the same. May be repeated."""

    def rename(self, volume_id: str, name: str, to: str) -> None:
        """Renames a file that backs nothing to a free name, durably. May be repeated."""

    def resize(self, volume_id: str, name: str, format_: str, size: int) -> None:
        """Grows a file, never shrinks it. May be repeated."""

    def repair(self, volume_id: str, name: str, format_: str) -> None:
        """Repairs what an interrupted commit left in its base: leaked clusters, wrong counts. May be repeated."""

    def check_sound(self, volume_id: str, among: Collection[str] | None = None, closing: Collection[str] = ()) -> None:
        """Raises NotSound when a file of the volume is not sound and ``make_sound`` could not help it now; of the files
        ``among`` these where they are given. ``closing`` are those that a running server's QEMU is going to close: also when
        it would crash at that."""

    def check_whole(self, name: str, format_: str, seconds: float) -> None:
        """Raises BadImage when a file that does not belong to a volume yet is damaged beyond what ``make_sound`` repairs, or
        when ``seconds`` are not enough to check a file whose writer died."""

    def make_sound(self, volume_id: str) -> list[str]:
        """Repairs the reference counts of the volume's files whose writer died; returns what was done. Content stays as it
        is. Raises NotSound, also while a program has such a file open. May be repeated."""

    def visible(self, name: str, format_: str, shared: bool = False) -> Sequence[int]:
        """Bytes a reader of ``name`` finds in it, in the file below, and so on. ``shared``: a guest may have it open."""

    def holds_data(self, name: str) -> bool:
        """Tells whether anything was ever written to an overlay."""

    def sweep(self) -> None:
        """Removes trash that a crash left behind. May be repeated."""

    def free(self) -> int:
        """Bytes that are free on the share."""

    def total(self) -> int:
        """Bytes of the whole share."""

    def files(self, volume_id: str) -> list[str]:
        """Names of the volume's chain files."""

    def listing(self) -> list[str]:
        """Every name on the share."""

    def in_use(self, volume_id: str) -> list[str]:
        """Names of the volume's files some program has open: with QEMU's locks, or on this host in any way."""

    def users(self, wanted: Collection[str]) -> Mapping[str, list[str]]:
        """Who uses each of these files, of whatever name, in words: programs that have it open or locked, and files of any
        name on the share whose header names it. A file that nobody uses is left out; one with a second name, or that is
        gone, is not. However many are asked about, every file of the share is opened once to read its header."""

    def remove(self, volume_id: str, name: str) -> None:
        """Removes a chain file by way of trash. Refuses (ChainConflict) while any header on the share names it, whatever the
        name of its file (I4).
        May be repeated."""

    def manage_file(self, volume_id: str, name: str, to: str) -> None:
        """Gives a file that does not belong to a volume yet a volume's name, and the mode 0660 of all volumes' files. May be
        repeated."""

    def unmanage_file(self, volume_id: str, name: str, to: str) -> None:
        """Gives a volume's file a name that no volume has. May be repeated."""

    def remove_temporary(self, volume_id: str, token: str) -> None:
        """Removes what an interrupted ``create``, ``create_overlay`` or ``copy`` left. May be repeated."""

    def holds_temporary(self, volume_id: str, token: str) -> bool:
        """Tells whether there is something that ``remove_temporary`` would remove."""

    def read_document(self, name: str) -> dict[str, Any]:
        """Returns a JSON document beside the files; empty when there is none. Raises BadImage when the file is not JSON."""

    def write_document(self, name: str, document: Mapping[str, Any]) -> None:
        """Replaces a JSON document atomically and durably; an empty one removes the file. May be repeated."""

    def stamp(self, name: str) -> str:
        """Returns a value that changes with every write to the file. Merging the file's content into another file does not
        write to it."""

    def allocated(self, name: str) -> int:
        """Bytes a file occupies."""

    def dependants(self, name: str) -> list[str]:
        """Names of the files whose headers name this one: of any volume, and of none."""

    def foreign_readers(self, volume_id: str, known: Collection[str]) -> Mapping[str, list[str]]:
        """By file of the volume, the files based on it that are of none of the volumes ``known``, nor its own."""

"""A share whose volumes have snapshots of their own: raw files that stand alone and share blocks. See ``contract.Share``.

What lies in them belongs to guests, all of it: no byte of a volume's file is ever read as a header (R3).
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.errors import StepFailed
from stillframe.host import clones, copies, differences, files, inspection
from stillframe.host.copies import Source
from stillframe.volumes.storage.drivers.contract import Capabilities
from stillframe.volumes.storage.drivers.directory import DirectoryShare

CAPABILITIES = Capabilities(chains=False, native_snapshots=True, undo_revert=False, exported=True, here=True)


def volume_files(path: Path) -> Collection[str]:
    """Returns the names of all volumes' files in a directory."""
    return {name for name in files.listing(path) if names.parse(name) is not None}


@dataclass(frozen=True)
class NativeShare(DirectoryShare):
    """``opaque`` must tell every volume's file."""

    capabilities: Capabilities = CAPABILITIES

    def format_of(self, name: str, base_format: str) -> str:
        """Returns the format of a volume's file."""
        return "raw"

    def create(self, volume_id: str, image: Image, token: str) -> None:
        """Publishes an empty file."""
        self._refuse_unless_raw(image)
        super().create(volume_id, image, token)

    def create_overlay(self, volume_id: str, image: Image, token: str) -> None:
        """Publishes an empty overlay on ``image.backing``."""
        self._refuse_unless_raw(image)

    def clone(self, volume_id: str, source: str, image: Image, token: str) -> None:
        """Publishes a raw file that reads as the file ``source`` of a volume does at this instant, and as
        zeros behind its end."""
        self.probe_for_writing()
        self._refuse_unless_raw(image)
        self._belongs(image.name, volume_id)
        if names.parse(inspection.plain_name(source)) is None:
            raise StepFailed(f"{source} is no file of a volume")
        with self._asked():
            clones.publish_clone(self.path, source, image, token, volume_id)

    def copy(self, volume_id: str, source: Source, image: Image, token: str) -> None:
        """Publishes a full, verified copy of what a reader of ``source`` sees; larger than it where ``image.size`` is."""
        self._refuse_unless_raw(image)
        if source.directory is None:
            self.clone(volume_id, source.name, image, token)
        else:
            super().copy(volume_id, source, image, token)

    def copy_layer_out(self, source: Source, target: Path, backing: str, above: str | None = None) -> None:
        """Writes in what the source differs from ``above`` into one compressed overlay outside the share, which names
        ``backing``."""
        if above is None:
            raise StepFailed(f"{source.name} stands alone: what it is compared with must be given")
        with self._asked(outside=True):
            copies.copy_difference_out(self.path, source, target, backing, above)

    def differing(self, name: str, above: str) -> int:
        """Bytes that ``copy_layer_out`` may have to store, at most: those that a reader of ``name`` finds in it and in the
        files behind it down to ``above``, without that one."""
        with self._asked():
            return differences.bytes_apart(self.path, inspection.plain_name(name), inspection.plain_name(above))

    def commit(self, volume_id: str, top: str, base: str) -> None:
        """Merges (base, top] down into ``base``, durably; the files above it keep their content."""
        raise self._no_chain(top)

    def pull(self, volume_id: str, name: str, backing: str | None, backing_format: str | None) -> None:
        """Copies what lies between ``name`` and ``backing`` up into ``name``, durably."""
        raise self._no_chain(name)

    def repoint(self, volume_id: str, name: str, backing: str, backing_format: str) -> None:
        """Names another backing file in a header; the content read must be the same."""
        raise self._no_chain(name)

    def repair(self, volume_id: str, name: str, format_: str) -> None:
        """Repairs what an interrupted commit left in its base: leaked clusters, wrong counts."""
        raise self._no_chain(name)

    def holds_data(self, name: str) -> bool:
        """Tells whether anything was ever written to an overlay."""
        raise self._no_chain(name)

    def _format(self, name: str) -> str:
        return "raw"

    def _refuse_unless_raw(self, image: Image) -> None:
        if image.format != "raw" or image.backing is not None:
            raise self._no_chain(image.name)

    def _no_chain(self, name: str) -> StepFailed:
        return StepFailed(f"the share {self.path} holds no chains: {name} is a raw file that stands alone")

"""What every driver promises. The words "may be repeated" mean: the same call again has the same outcome."""

from pathlib import Path
from typing import Any, Protocol

from stillframe.chain.image import Chain, Image


class Driver(Protocol):
    """One backend. All methods raise ShareUnavailable when the share does not answer, is full, or is another share."""

    share: Path

    def probe(self) -> None:
        """Raises ShareUnavailable unless the share is there and carries the expected marker. Called before any change."""

    def probe_for_writing(self) -> None:
        """As ``probe``; also raises ShareUnavailable when less space is free than is always kept."""

    def connection_info(self, active_file: str, format_: str) -> dict[str, Any]:
        """What a hypervisor needs to open the volume: driver_volume_type, export, name, format, mount_point_base."""

    def create(self, volume_id: str, size: int, token: str) -> None:
        """Publishes an empty qcow2 base of ``size`` bytes. May be repeated with the same token."""

    def chain(self, volume_id: str, active_file: str) -> Chain:
        """Reads and checks the volume's chain from its headers. Raises BadImage, ChainConflict."""

    def create_overlay(self, volume_id: str, image: Image, token: str) -> None:
        """Publishes an empty overlay. May be repeated with the same token."""

    def commit(self, volume_id: str, top: str, depth: int) -> None:
        """Merges ``top`` down into its backing file, durably; ``top`` stays as it is. May be repeated."""

    def repair_leaks(self, volume_id: str, name: str) -> None:
        """Gives back clusters an interrupted commit left unused in ``name``. May be repeated."""

    def sweep(self) -> None:
        """Removes trash that a crash left behind. May be repeated."""

    def free(self) -> int:
        """Bytes that are free on the share."""

    def files(self, volume_id: str) -> list[str]:
        """Names of the volume's chain files on the share."""

    def in_use(self, volume_id: str) -> list[str]:
        """Names of the volume's files some program has open."""

    def remove(self, volume_id: str, name: str) -> None:
        """Removes a chain file by way of trash. Refuses (ChainConflict) while any header on the share names it (I4).
        May be repeated."""

    def remove_temporary(self, volume_id: str, token: str) -> None:
        """Removes what an interrupted ``create`` left. May be repeated."""

    def read_info(self, volume_id: str) -> dict[str, str]:
        """Returns the ``.info`` document; empty when there is none."""

    def write_info(self, volume_id: str, document: dict[str, str]) -> None:
        """Replaces the ``.info`` document atomically; an empty one removes the file. May be repeated."""

    def allocated(self, name: str) -> int:
        """Bytes a file occupies."""

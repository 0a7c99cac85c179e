"""The local driver: QCOW2 files in a directory of this host."""

import uuid
from pathlib import Path
from typing import Any

from stillframe.chain import image, names
from stillframe.chain.image import Chain, Image
from stillframe.errors import BadImage, ChainConflict, ShareUnavailable
from stillframe.host import files, publish, qcow2, qemu_img

MARKER = ".share-id"
TRASH_SECONDS = 60.0


class LocalDriver:
    """See ``contract.Driver``."""

    def __init__(self, share: Path, share_id: str, minimum_free: int) -> None:
        self.share = share
        self._share_id = share_id
        self._minimum_free = minimum_free

    def probe(self) -> None:
        with files.share_errors(self.share):
            found = files.read_json(self.share, MARKER)
        if found is None or found.get("share_id") != self._share_id:
            raise ShareUnavailable(
                f"the directory {self.share} is not the share it was: its marker file {MARKER} is missing or another's"
            )

    def probe_for_writing(self) -> None:
        self.probe()
        free = files.free_bytes(self.share)
        if free < self._minimum_free:
            raise ShareUnavailable(f"the share {self.share} is full: {free} bytes free, {self._minimum_free} are kept")

    def connection_info(self, active_file: str, format_: str) -> dict[str, Any]:
        return {
            "driver_volume_type": "local",
            "mount_point_base": str(self.share.parent),
            "export": str(self.share),
            "name": active_file,
            "format": format_,
            "options": None,
        }

    def create(self, volume_id: str, size: int, token: str) -> None:
        self.probe_for_writing()
        with files.share_errors(self.share):
            publish.publish_base(self.share, Image(names.base_name(volume_id), "qcow2", size), token, volume_id)

    def chain(self, volume_id: str, active_file: str) -> Chain:
        self.probe()
        try:
            return image.check(qemu_img.read_chain(self.share, volume_id, active_file))
        except FileNotFoundError as error:
            raise ChainConflict(f"a file of volume {volume_id} is missing: {error.filename}") from error

    def create_overlay(self, volume_id: str, image: Image, token: str) -> None:
        self.probe_for_writing()
        with files.share_errors(self.share):
            publish.publish_overlay(self.share, image, token, volume_id)

    def commit(self, volume_id: str, top: str, depth: int) -> None:
        self.probe()
        names.check_belongs(top, volume_id)
        base = qcow2.read(self.share, top).backing
        if base is None:
            raise ChainConflict(f"{top} has no backing file to commit into")
        for other in self._dependants(base):
            if other != top:
                raise ChainConflict(f"{base} backs {other} too: committing into it would change what {other} reads (I2)")
        with files.share_errors(self.share):
            qemu_img.commit(self.share, top, base, depth)

    def repair_leaks(self, volume_id: str, name: str) -> None:
        self.probe()
        qemu_img.repair_leaks(self.share, names.check_belongs(name, volume_id), "qcow2")

    def sweep(self) -> None:
        self.probe()
        for name in files.listing(self.share):
            if names.is_trash(name) and files.age_seconds(self.share, name) > TRASH_SECONDS:
                files.remove(self.share, name)

    def free(self) -> int:
        self.probe()
        return files.free_bytes(self.share)

    def files(self, volume_id: str) -> list[str]:
        self.probe()
        return [name for name in files.listing(self.share) if (names.parse(name) or ("",))[0] == volume_id]

    def in_use(self, volume_id: str) -> list[str]:
        return [name for name in self.files(volume_id) if files.is_locked(self.share, name)]

    def remove(self, volume_id: str, name: str) -> None:
        self.probe()
        names.check_belongs(name, volume_id)
        dependants = self._dependants(name)
        if dependants:
            raise ChainConflict(f"{name} cannot be removed: {', '.join(dependants)} is backed by it (I4)")
        files.trash(self.share, name, names.trash_name(name))

    def remove_temporary(self, volume_id: str, token: str) -> None:
        self.probe()
        files.remove(self.share, names.temporary_name(volume_id, token))

    def read_info(self, volume_id: str) -> dict[str, str]:
        self.probe()
        return files.read_json(self.share, names.info_name(volume_id)) or {}

    def write_info(self, volume_id: str, document: dict[str, str]) -> None:
        self.probe()
        with files.share_errors(self.share):
            if document:
                files.write_json(self.share, names.info_name(volume_id), document)
            else:
                files.remove(self.share, names.info_name(volume_id))

    def allocated(self, name: str) -> int:
        return files.allocated(self.share, name)

    def _dependants(self, name: str | None) -> list[str]:
        found = []
        for other in files.listing(self.share):
            if names.parse(other) is None:
                continue
            try:
                if qcow2.read(self.share, other).backing == name:
                    found.append(other)
            except (BadImage, FileNotFoundError):
                continue  # no image of ours, or gone meanwhile: it refers to nothing we may believe
        return found


def prepare(share: Path) -> str:
    """Makes the directory and its marker on first use; returns the share's id.

    Raises ShareUnavailable when the directory cannot be made or read.
    """
    with files.share_errors(share):
        if not share.exists():
            share.mkdir(parents=True)
            share.chmod(0o2770)  # mkdir's own mode is cut by the umask and loses the setgid bit
        found = files.read_json(share, MARKER)
        if found is None:
            found = {"share_id": str(uuid.uuid4())}
            files.write_json(share, MARKER, found)
    return str(found["share_id"])

"""Makes scratch overlays: qcow2 files that receive a guest's writes while block storage takes a snapshot of the volume below.

The file does not name the volume below it. libvirt has both layers in its description, whether the domain runs or not (F49,
libvirt 9.0), and gives QEMU both. The header names a file that never exists, so a program that opens the overlay alone gets an
error and not an empty disk.
"""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from stillframe.chain.image import Image
from stillframe.errors import BadImage, ChainConflict, HostCommandFailed, ScratchUnusable, ShareUnavailable
from stillframe.host import entries, files, image_command, inspection, iscsi, qcow2, reserve, users
from stillframe.host.image_command import command, limits
from stillframe.host.probe import MARKER
from stillframe.host.run import run

_DIRECTORY_MODE, _FILE_MODE = 0o711, 0o660
_MIB = 1 << 20
_ID = "[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
_NAME = re.compile(rf"scratch-({_ID})-({_ID})\.qcow2(\.new)?")


def name_of(volume_id: str, set_id: str) -> str:
    """Returns the name of the overlay that a set gives a volume."""
    return f"scratch-{volume_id}-{set_id}.qcow2"


@dataclass(frozen=True)
class Overlay:
    """``size`` is the virtual size in bytes, equal to that of the volume below."""

    directory: Path
    name: str
    size: int

    @property
    def image(self) -> Image:
        """What the overlay's header says."""
        return Image(self.name, "qcow2", self.size, f"{self.name}.below", "raw")

    def room(self, limit: int) -> int:
        """Returns how many bytes it is given: ``limit``, or what the whole volume and the tables for it take (8 bytes of an L2
        table and two of a refcount block for each cluster of 64 KiB)."""
        return min(limit, self.size + (self.size >> 10) + 2 * _MIB)


def prepare(directory: Path, create: bool) -> None:
    """Makes sure of the directory, which only this user may write to; QEMU's user may reach the files in it that it is given
    by name. Where it is missing ``create`` makes it; without that it is refused, because it may be on a disk that is not
    mounted. Raises ScratchUnusable."""
    try:
        if create and not directory.exists():
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(_DIRECTORY_MODE)  # the service's umask would keep QEMU's user out
        found = os.stat(directory, follow_symlinks=False)
    except OSError as error:
        raise ScratchUnusable(f"scratch_dir: {directory} cannot be used: {error.strerror}") from error
    if why := _unusable(directory, found):
        raise ScratchUnusable(f"scratch_dir: {directory} {why}")


def _unusable(directory: Path, found: os.stat_result) -> str | None:
    if not stat.S_ISDIR(found.st_mode):
        return "is not a directory of its own"
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        return "belongs to another user, or others may write to it; choose one of this user's own"
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        return "cannot be written to by this service; look at its mode, and whether it is mounted read-only"
    return None


def share_above(directory: Path) -> Path | None:
    """Returns the directory that is, or holds, this one and has the marker of a share; None where there is none."""
    return next((each for each in (directory, *directory.parents) if os.path.lexists(each / MARKER)), None)


def check_room(directory: Path, wanted: int) -> None:
    """Raises ShareUnavailable where fewer than ``wanted`` bytes are free."""
    left = files.free_bytes(directory)
    if left < wanted:
        raise ShareUnavailable(
            f"the scratch directory has {left} bytes free, and overlays may need {wanted} (scratch_limit_mib); make room there"
        )


def make(overlay: Overlay, limit: int) -> None:
    """Makes the overlay, empty and durable, with room for ``limit`` bytes that nobody else can take. May be repeated. Raises
    ShareUnavailable where there is no such room."""
    if is_made(overlay):
        return
    temporary = f"{overlay.name}.new"
    files.unlink(overlay.directory, temporary)
    check_room(overlay.directory, overlay.room(limit))
    arguments = ["-b", str(overlay.image.backing), temporary, str(overlay.size)]
    run(command("overlay", ["qcow2", "raw"], arguments), cwd=overlay.directory, limits=limits(1))
    os.chmod(overlay.directory / temporary, _FILE_MODE)
    _reserve(overlay.directory, temporary, overlay.room(limit))
    files.sync_file(overlay.directory, temporary)
    files.rename_new(overlay.directory, temporary, overlay.name)


def _reserve(directory: Path, name: str, size: int) -> None:
    handle = files.open_regular(directory, name, flags=os.O_WRONLY)
    try:
        reserve.reserve(handle, size)  # where that cannot be done, there was room a moment ago
    except ShareUnavailable as error:
        raise ShareUnavailable(
            f"the scratch directory became full: {error.message} (scratch_limit_mib); make room there"
        ) from error
    finally:
        os.close(handle)


def is_made(overlay: Overlay) -> bool:
    """Tells whether the file exists and is as ``make`` makes it."""
    return files.exists(overlay.directory, overlay.name) and qcow2.read(overlay.directory, overlay.name) == overlay.image


def commit(overlay: Overlay, unit: iscsi.Unit, password: str | None) -> None:
    """Writes the content of the overlay to the unit, which no guest may have open. The overlay keeps its content.

    May be repeated. Raises TargetUnreachable and TargetRefused like ``iscsi.size_of``, HostCommandFailed, BadImage with nothing
    written when the header is not as ``make`` made it.
    """
    _refuse_forged(overlay)
    iscsi.size_of(unit, password)  # raises what is wrong with the target
    # QEMU would pass a backing file's name from the header to the initiator as the URL of the unit (F50, qemu 7.2).
    run(command("detach", ["qcow2"], [overlay.name]), cwd=overlay.directory, limits=limits(1))
    with iscsi.login(unit, password) as named:
        run(image_command.commit_to_unit(overlay.directory / overlay.name, named), cwd=Path("/"), limits=limits(2))


def _refuse_forged(overlay: Overlay) -> None:
    """QEMU wrote to the file since, whose user is not ours. A header that names another file as its data would have that file's
    content written to the volume (R5, R6). A commit that was interrupted has taken the backing file's name out of it."""
    found = inspection.alone(overlay.directory, overlay.name, "qcow2")
    if found not in (overlay.image, Image(overlay.name, "qcow2", overlay.size)):
        raise BadImage(f"{found} is not the scratch overlay that was made: its header was written by somebody else")


def remove(directory: Path, name: str) -> None:
    """Removes the file, and what an interrupted ``make`` left. May be repeated. Nothing may name the file or have it open."""
    files.unlink(directory, f"{name}.new")
    files.unlink(directory, name)


def bytes_in(directory: Path, name: str) -> int:
    """Returns how much is in the overlay, in bytes; what is reserved beyond its end does not count. Raises HostCommandFailed
    when it is gone."""
    try:
        return os.stat(directory / name, follow_symlinks=False).st_size
    except FileNotFoundError as error:
        raise HostCommandFailed(f"the scratch overlay {name} is gone") from error


@dataclass(frozen=True)
class Left:
    """A file of a scratch directory. ``made`` False: an interrupted ``make`` left it. ``holds_data``: something was written to
    it, or that cannot be told. ``programs`` have it open, in words; ``length`` in bytes: what is
    reserved beyond its end does not count."""

    name: str
    volume_id: str
    set_id: str
    length: int
    made: bool
    holds_data: bool
    programs: tuple[str, ...]


def look(directory: Path) -> list[Left]:
    """Returns the scratch overlays of a directory by name; other files are left out, and what goes away meanwhile. A directory
    that is not there holds none. Raises ShareUnavailable."""
    if not directory.is_dir():
        return []
    found = [_left(directory, entry) for entry in entries.look(directory).values()]
    return sorted((each for each in found if each is not None), key=lambda each: each.name)


def _left(directory: Path, entry: entries.Entry) -> Left | None:
    parsed = _NAME.fullmatch(entry.name)
    if parsed is None:
        return None
    made, seen = parsed[3] is None, users.identity(directory / entry.name)
    if seen is None:
        return None
    programs = tuple(users.programs([seen]).get(seen, ()))
    return Left(entry.name, parsed[1], parsed[2], entry.length, made, _may_hold_data(directory, entry), programs)


def _may_hold_data(directory: Path, entry: entries.Entry) -> bool:
    try:
        return entry.regular and qcow2.holds_data(directory, entry.name)
    except FileNotFoundError:
        return False
    except BadImage:  # an interrupted make leaves less than a header, and nobody opened it
        return not entry.name.endswith(".new")


def remove_empty(directory: Path, name: str) -> None:
    """Removes an overlay that no guest ever wrote to. Raises ChainConflict for one that holds data or is open in a program."""
    for each in look(directory):
        if each.name == name and (each.holds_data or each.programs):
            raise ChainConflict(f"{name} is in use, or was written to, by now")
    files.unlink(directory, name)

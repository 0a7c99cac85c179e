"""Image files in one directory: all that is done on a share, wherever it is mounted from. See ``contract.Share``."""

import json
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.errors import BadImage, ChainConflict, FileInUse, ForeignShare, HostCommandFailed, ShareUnavailable, StepFailed
from stillframe.host import (
    copies,
    entries,
    extents,
    files,
    inspection,
    probe,
    publish,
    qcow2,
    qemu_img,
    soundness,
    trash,
    users,
    workdir,
)
from stillframe.host.copies import Source

MARKER = probe.MARKER
TRASH_SECONDS = 60.0
MODE = 0o660  # of every file of a volume: the hypervisor's group may write, nobody else may read
_PUBLISHING_LOOKS = 50
Opaque = Callable[[], Collection[str]]  # names of raw files, whose content is never read as a header (R3)


@dataclass(frozen=True)
class DirectoryShare:
    """``share_id`` is what the marker must say; ``minimum_free`` bytes are always kept; ``opaque`` tells the raw files.
    ``deployment`` is ours: a marker that names another one is refused."""

    path: Path
    share_id: str
    minimum_free: int
    opaque: Opaque = tuple
    prober: probe.Prober | None = field(default=None, compare=False)
    deployment: str = ""

    def probe(self) -> None:
        try:
            found = json.loads(self.prober.check()) if self.prober else files.read_json(self.path, MARKER)
        except (OSError, ValueError, RecursionError, BadImage) as error:
            raise ShareUnavailable(f"the share {self.path} does not show its marker file {MARKER}: {error}") from error
        if not isinstance(found, dict) or found.get("share_id") != self.share_id:
            raise ShareUnavailable(
                f"the directory {self.path} is not the share it was: its marker file {MARKER} is missing or another's"
            )
        if self.deployment:
            refuse_foreign(self.path, found, self.deployment)

    def probe_for_writing(self, needed: int = 0) -> None:
        self.probe()
        free = files.free_bytes(self.path)
        if free < self.minimum_free + needed:
            raise ShareUnavailable(
                f"the share {self.path} is full: {free} bytes are free, {needed} are needed and {self.minimum_free} are kept",
                free=free,
                needed=needed,
            )

    @contextmanager
    def _asked(self, outside: bool = False) -> Iterator[None]:
        """Raises an error within the block as ShareUnavailable when the share caused it. The result of the last probe is not
        used for that: a share that has gone away meanwhile shows neither files nor their faults. ``outside``: what is written
        lies elsewhere, and the error may come from there."""
        self.probe()
        try:
            yield
        except (OSError, BadImage, ChainConflict, StepFailed, HostCommandFailed) as error:
            self._look_again()
            if outside or isinstance(error, FileNotFoundError):
                raise
            if isinstance(error, HostCommandFailed) and any(words in error.message for words in files.SHARE_WORDS):
                raise ShareUnavailable(f"the share {self.path} does not work: {error.message}") from error
            if isinstance(error, HostCommandFailed) and any(words in error.message for words in files.LOCK_WORDS):
                raise FileInUse(f"a program has a file on the share {self.path} open: {error.message}") from error
            with files.share_errors(self.path):
                raise

    def _look_again(self) -> None:
        replace(self, prober=probe.Prober(self.path) if self.prober else None).probe()

    def images(self, volume_id: str, base_format: str) -> Mapping[str, Image]:
        found = {}
        for name in self.files(volume_id):
            format_ = base_format if name == names.base_name(volume_id) else "qcow2"
            found[name] = self.image(name, format_)
        return found

    def image(self, name: str, format_: str) -> Image:
        with self._asked():
            return qcow2.read_as(self.path, inspection.plain_name(name), format_)

    def create(self, volume_id: str, image: Image, token: str) -> None:
        self.probe_for_writing()
        names.check_belongs(image.name, volume_id)
        with self._asked():
            publish.publish_base(self.path, image, token, volume_id)

    def create_overlay(self, volume_id: str, image: Image, token: str) -> None:
        self.probe_for_writing()
        names.check_belongs(image.name, volume_id)
        with self._asked():
            publish.publish_overlay(self.path, image, token, volume_id)

    def copy(self, volume_id: str, source: Source, image: Image, token: str) -> None:
        names.check_belongs(image.name, volume_id)
        begun = source.directory is not None or image.name in self.files(volume_id)
        self.probe_for_writing(0 if begun else sum(self.visible(source.name, source.format)))
        with self._asked():
            copies.publish_copy(self.path, source, image, token, volume_id)

    def copy_out(self, source: Source, target: Path, format_: str, compress: bool) -> None:
        with self._asked(outside=True):
            copies.copy_out(source, self.path, target, format_, compress)

    def copy_layer_out(self, source: Source, target: Path, backing: str, above: str | None = None) -> None:
        with self._asked(outside=True):
            copies.copy_layer_out(self.path, source, target, backing, above)

    def commit(self, volume_id: str, top: str, base: str) -> None:
        names.check_belongs(base, volume_id)
        with self._asked():
            between = self._between(volume_id, top, base)
            self._refuse_others(between)
            soundness.require(self.path, base, self._format(base))
            qemu_img.commit(self.path, top, base, len(between))

    def pull(self, volume_id: str, name: str, backing: str | None, backing_format: str | None) -> None:
        names.check_belongs(name, volume_id)
        inspection.plain_name(backing or name)  # a linked clone's lowest file is backed by another volume's
        with self._asked():
            qemu_img.pull(self.path, name, backing, backing_format, inspection.MAX_DEPTH)

    def repoint(self, volume_id: str, name: str, backing: str, backing_format: str) -> None:
        names.check_belongs(name, volume_id)
        names.check_belongs(backing, volume_id)
        with self._asked():
            qemu_img.repoint(self.path, name, backing, backing_format)

    def rename(self, volume_id: str, name: str, to: str) -> None:
        names.check_belongs(name, volume_id)
        names.check_belongs(to, volume_id)
        with self._asked():
            for dependant in self.dependants(name):
                raise ChainConflict(f"{name} cannot be renamed: {dependant} is backed by it")
            files.rename_new(self.path, name, to)

    def resize(self, volume_id: str, name: str, format_: str, size: int) -> None:
        self.probe_for_writing()
        names.check_belongs(name, volume_id)
        with self._asked():
            soundness.require(self.path, name, format_)
            qemu_img.resize(self.path, name, format_, size)

    def repair(self, volume_id: str, name: str, format_: str) -> None:
        names.check_belongs(name, volume_id)
        with self._asked():
            qemu_img.repair_all(self.path, name, format_)

    def check_sound(self, volume_id: str, among: Collection[str] | None = None, closing: Collection[str] = ()) -> None:
        with self._asked():
            for name in [each for each in self.files(volume_id) if among is None or each in among]:
                soundness.refuse_beyond_repair(self.path, name, self._format(name))
            for name in [each for each in self.files(volume_id) if each in closing]:
                soundness.require_for_closing(self.path, name, self._format(name))

    def check_whole(self, name: str, format_: str, seconds: float) -> None:
        with self._asked():
            soundness.check(self.path, inspection.plain_name(name), format_, seconds)

    def make_sound(self, volume_id: str) -> list[str]:
        with self._asked():
            return [did for name in self.files(volume_id) for did in soundness.repair(self.path, name, self._format(name))]

    def _format(self, name: str) -> str:
        return "raw" if name in self.opaque() else "qcow2"

    def visible(self, name: str, format_: str, shared: bool = False) -> Sequence[int]:
        with self._asked():
            chain = inspection.chain_of(self.path, name, format_)
            found = extents.extents(self.path, name, format_, inspection.MAX_DEPTH, shared)
        raw = {depth for depth, image in enumerate(chain) if image.format == "raw"}  # holes are not content
        weights: dict[int, int] = {}
        for each in found:
            if each.data or (each.present and each.depth not in raw):
                weights[each.depth] = weights.get(each.depth, 0) + each.length
        return [weights.get(depth, 0) for depth in range(max(weights, default=0) + 1)]

    def holds_data(self, name: str) -> bool:
        with self._asked():
            return qcow2.holds_data(self.path, inspection.plain_name(name))

    def sweep(self) -> None:
        with self._asked(), workdir.working(self.path) as working:
            for place in (self.path, working):  # files on the share itself are from before there was a working directory
                for name in files.listing(place):
                    if names.is_trash(name) and files.age_seconds(place, name) > TRASH_SECONDS:
                        (files.unlink if place is working else files.remove)(place, name)

    def free(self) -> int:
        self.probe()
        return files.free_bytes(self.path)

    def total(self) -> int:
        self.probe()
        return files.total_bytes(self.path)

    def files(self, volume_id: str) -> list[str]:
        return [name for name in self.listing() if (names.parse(name) or ("",))[0] == volume_id]

    def listing(self) -> list[str]:
        self.probe()
        return files.listing(self.path)

    def in_use(self, volume_id: str) -> list[str]:
        with self._asked():
            found = {name: users.identity(self.path / name) for name in self.files(volume_id)}
            open_ = users.programs([each for each in found.values() if each])
            return [name for name, each in found.items() if each in open_ or files.is_locked(self.path, name)]

    def users(self, wanted: Collection[str]) -> Mapping[str, list[str]]:
        with self._asked():
            known = {name: users.identity(self.path / name) for name in wanted}
            open_ = users.programs({each for each in known.values() if each})
            above = self._readers(wanted)
            found = {name: self._held(name, open_.get(known[name] or (0, 0), ())) for name in wanted}
        for name, others in above.items():
            found[name] += [f"{other} is based on it" for other in others]
        return {name: words for name, words in found.items() if words}

    def _held(self, name: str, programs: Sequence[str]) -> list[str]:
        """A file that cannot be checked may have any user."""
        try:
            locked = files.is_locked(self.path, inspection.plain_name(name))
        except BadImage as error:
            return [error.message]
        except FileNotFoundError:
            return ["it is not there any more"]
        if programs or not locked:
            return [f"{each} has it open" for each in programs]
        return ["a program has it locked, on this host or another"]

    def remove(self, volume_id: str, name: str) -> None:
        names.check_belongs(name, volume_id)
        with self._asked():
            dependants = self.dependants(name)
            if dependants:
                raise ChainConflict(f"{name} cannot be removed: {', '.join(dependants)} is backed by it")
            trash.put(self.path, name, names.trash_name(name))

    def adopt(self, volume_id: str, name: str, to: str) -> None:
        inspection.plain_name(name)
        names.check_belongs(to, volume_id)
        with self._asked():
            if files.exists(self.path, name):
                # Before it has its name: a crash in between leaves no volume that others may read.
                entries.set_mode(self.path, name, MODE)
            files.rename_new(self.path, name, to)

    def give_back(self, volume_id: str, name: str, to: str) -> None:
        names.check_belongs(name, volume_id)
        inspection.plain_name(to)
        with self._asked():
            files.rename_new(self.path, name, to)

    def remove_temporary(self, volume_id: str, token: str) -> None:
        with self._asked():
            files.remove_temporary(self.path, names.temporary_name(volume_id, token))

    def holds_temporary(self, volume_id: str, token: str) -> bool:
        with self._asked():
            wanted = names.temporary_name(volume_id, token)
            return wanted in workdir.lying(self.path) or files.exists(self.path, wanted)

    def read_document(self, name: str) -> dict[str, Any]:
        inspection.plain_name(name)
        with self._asked():
            try:
                found = files.read_json(self.path, name)
            except (ValueError, RecursionError) as error:
                raise BadImage(f"{name} on the share {self.path} is no JSON document: {error}") from error
        if not isinstance(found, dict | None):
            raise BadImage(f"{name} on the share {self.path} holds no JSON object")
        return found or {}

    def write_document(self, name: str, document: Mapping[str, Any]) -> None:
        inspection.plain_name(name)
        with self._asked():
            if document:
                files.write_json(self.path, name, document)
            else:
                files.remove(self.path, name)

    def stamp(self, name: str) -> str:
        with self._asked():
            return files.stamp(self.path, inspection.plain_name(name))

    def allocated(self, name: str) -> int:
        with self._asked():
            return files.allocated(self.path, inspection.plain_name(name))

    def dependants(self, name: str) -> list[str]:
        with self._asked():
            return self._readers([name]).get(name, [])

    def foreign_readers(self, volume_id: str, known: Collection[str]) -> Mapping[str, list[str]]:
        with self._asked():
            return self._readers(self.files(volume_id), {volume_id, *known})

    def _readers(self, wanted: Collection[str], known: Collection[str] = ()) -> Mapping[str, list[str]]:
        """Parent images have other names than volumes, and so may a file that somebody based on a volume; it may be in a
        directory further down. Files of the volumes ``known`` are not read, nor what only looks like a header (R3)."""
        listed = files.listing(self.path)
        apart = {name for name in listed if names.is_ours_apart(name) or (names.parse(name) or ("",))[0] in known}
        return users.readers(self.path, wanted, apart | set(self.opaque()))

    def _between(self, volume_id: str, top: str, base: str) -> list[str]:
        """The files from ``top`` down to ``base``, both included."""
        found = [names.check_belongs(top, volume_id)]
        while found[-1] != base:
            below = qcow2.read(self.path, found[-1]).backing
            if below is None or len(found) > inspection.MAX_DEPTH:
                raise StepFailed(f"{top} is not backed by {base}")
            found.append(names.check_belongs(below, volume_id))
        return found

    def _refuse_others(self, between: Sequence[str]) -> None:
        for name, others in self._readers(between[1:]).items():
            for other in others:
                if other not in between:
                    raise ChainConflict(f"{name} backs {other} too: committing would change what {other} reads")


def refuse_foreign(path: Path, marker: object, deployment: str) -> None:
    """Raises ForeignShare when the marker names another deployment than ours."""
    owner = marker.get("deployment") if isinstance(marker, dict) else None
    if owner is not None and owner != deployment:
        raise ForeignShare(
            f"the share {path} belongs to deployment {owner!s:.64} of Stillframe, and this is {deployment}: two that change the"
            " same volumes would destroy them",
            deployment=str(owner)[:64],
        )


def claim(path: Path, deployment: str, taken_from: str | None = None) -> str:
    """Makes the share ours: its marker, which is made on first use, names ``deployment`` afterwards. One that names another
    one is taken over only with that one's id as ``taken_from``. Returns the share's id. Raises ShareUnavailable,
    ForeignShare."""
    share_id = prepare(path, deployment)
    with files.share_errors(path):
        found = _marker(path)
        if taken_from is None or found.get("deployment") != taken_from:
            refuse_foreign(path, found, deployment)
        if found.get("deployment") != deployment:
            with suppress(FileNotFoundError):  # another process of ours did the same at that moment
                files.write_json(path, MARKER, {**found, "deployment": deployment})
            refuse_foreign(path, _marker(path), deployment)
    return share_id


def is_unclaimed(path: Path, share_id: str) -> bool:
    """Tells whether the marker is that of the share and names no deployment."""
    found = marker_of(path)
    return isinstance(found, dict) and found.get("share_id") == share_id and found.get("deployment") is None


def marker_of(path: Path) -> Any:
    """Returns what the marker of a directory says; None where there is no directory or no marker that can be read."""
    with suppress(OSError, ValueError, RecursionError, BadImage):
        return files.read_json(path, MARKER)
    return None


def prepare(path: Path, deployment: str | None = None) -> str:
    """Makes the marker of a share on first use, for ``deployment`` if it is given; returns the share's id, the same to all who
    do it at once. Raises ShareUnavailable."""
    with files.share_errors(path):
        found = _marker(path)
        if found is None:
            made = {"share_id": str(uuid.uuid4())} | ({"deployment": deployment} if deployment else {})
            temporary = f".tmp.{made['share_id']}"
            with workdir.working(path) as place:
                files.write_json(place, temporary, made)
                try:
                    files.publish(path, temporary, MARKER)
                except FileExistsError:
                    files.unlink(place, temporary)
            found = _marker(path)
    return str(found["share_id"])


def _marker(path: Path) -> Any:
    """The marker has two names for the moment in which another process publishes it, and would be refused for that."""
    for _ in range(_PUBLISHING_LOOKS):
        with suppress(BadImage):
            return files.read_json(path, MARKER)
        time.sleep(0.02)
    return files.read_json(path, MARKER)

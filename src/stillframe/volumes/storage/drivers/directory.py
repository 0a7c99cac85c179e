"""Image files in one directory: all that is done on a share, wherever it is mounted from. See ``contract.Share``."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.errors import BadImage, ChainConflict, FileInUse, HostCommandFailed, ShareUnavailable, StepFailed
from stillframe.host import (
    copies,
    entries,
    extents,
    files,
    inspection,
    parents,
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
from stillframe.volumes.storage.drivers import markers
from stillframe.volumes.storage.drivers.contract import CHAINS, Capabilities

TRASH_SECONDS = 60.0
MODE = 0o660  # of every file of a volume: the hypervisor's group may write, nobody else may read
Opaque = Callable[[], Collection[str]]  # names of raw files, whose content is never read as a header (R3)
Adopted = Callable[[], Mapping[str, str]]  # names of lowest files that are no volume's own name, and the volumes they are of


@dataclass(frozen=True)
class DirectoryShare:
    """``share_id`` is what the marker must say; ``minimum_free`` bytes are always kept; ``opaque`` tells the raw files.
    ``deployment`` is ours: a marker that names another one is refused. ``adopted`` tells the bases of adopted volumes."""

    path: Path
    share_id: str
    minimum_free: int
    opaque: Opaque = tuple
    prober: probe.Prober | None = field(default=None, compare=False)
    deployment: str = ""
    capabilities: Capabilities = CHAINS
    adopted: Adopted = dict

    def format_of(self, name: str, base_format: str) -> str:
        """Returns the format of a volume's file."""
        return "qcow2" if names.parse(name) and not names.is_base(name) else base_format

    def _belongs(self, name: str, volume_id: str) -> str:
        """Returns ``name`` if it is a file of the volume's chain. Raises BadImage otherwise (I1, R8)."""
        if names.parse(name) is None and self.adopted().get(name) == volume_id:
            return inspection.plain_name(name)
        return names.check_belongs(name, volume_id)

    def _adopted_base(self, volume_id: str) -> str | None:
        """What the volume's other files are like in mode and group: the directory was somebody's before it was a share."""
        return next((name for name, its in self.adopted().items() if its == volume_id), None)

    def _is_of_adopted(self, document: str) -> bool:
        ids = self.adopted().values()
        return any(document in (names.info_name(each), names.record_name(each)) for each in ids)

    def probe(self) -> None:
        """Raises ShareUnavailable unless the share answers in time and carries the expected marker."""
        try:
            found = json.loads(self.prober.check()) if self.prober else files.read_json(self.path, markers.MARKER)
        except (OSError, ValueError, RecursionError, BadImage) as error:
            raise ShareUnavailable(f"the share {self.path} does not show its marker file {markers.MARKER}: {error}") from error
        if not isinstance(found, dict) or found.get("share_id") != self.share_id:
            raise ShareUnavailable(
                f"the directory {self.path} is not the share it was: its marker file {markers.MARKER} is missing or another's"
            )
        if self.deployment:
            markers.refuse_foreign(self.path, found, self.deployment)

    def probe_for_writing(self, needed: int = 0) -> None:
        """As ``probe``; also when less than ``needed`` bytes are free beyond those always kept."""
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
        """Every file of the volume, by name, as its header says; a raw base by its length alone. Raises BadImage."""
        found = {}
        for name in self.files(volume_id):
            found[name] = self.image(name, self.format_of(name, base_format))
        return found

    def image(self, name: str, format_: str) -> Image:
        """Returns what one file's header says. Raises BadImage, FileNotFoundError."""
        with self._asked():
            return qcow2.read_as(self.path, inspection.plain_name(name), format_)

    def create(self, volume_id: str, image: Image, token: str) -> None:
        """Publishes an empty file."""
        self.probe_for_writing()
        self._belongs(image.name, volume_id)
        with self._asked():
            publish.publish_base(self.path, image, token, volume_id)

    def create_overlay(self, volume_id: str, image: Image, token: str) -> None:
        """Publishes an empty overlay on ``image.backing``."""
        self.probe_for_writing()
        self._belongs(image.name, volume_id)
        with self._asked():
            publish.publish_overlay(self.path, image, token, volume_id)

    def copy(self, volume_id: str, source: Source, image: Image, token: str) -> None:
        self._belongs(image.name, volume_id)
        begun = source.directory is not None or image.name in self.files(volume_id)
        self.probe_for_writing(0 if begun else sum(self.visible(source.name, source.format)))
        with self._asked():
            copies.publish_copy(self.path, replace(source, like=self._adopted_base(volume_id)), image, token, volume_id)

    def copy_out(self, source: Source, target: Path, format_: str, compress: bool) -> None:
        with self._asked(outside=True):
            copies.copy_out(source, self.path, target, format_, compress)

    def copy_layer_out(self, source: Source, target: Path, backing: str, above: str | None = None) -> None:
        with self._asked(outside=True):
            copies.copy_layer_out(self.path, source, target, backing, above)

    def clone(self, volume_id: str, source: str, image: Image, token: str) -> None:
        """Publishes a raw file that reads as the file ``source`` of a volume does at this instant, and as
        zeros behind its end."""
        raise StepFailed(f"the share {self.path} has no snapshots of its own: {source} of volume {volume_id} gets an overlay")

    def differing(self, name: str, above: str) -> int:
        """Bytes that ``copy_layer_out`` may have to store, at most: those that a reader of ``name`` finds in it and in the
        files behind it down to ``above``, without that one."""
        held = self.visible(name, "qcow2")
        with self._asked():
            path = [image.name for image in inspection.chain_of(self.path, inspection.plain_name(name), "qcow2")]
        return sum(held[: path.index(above)])

    def commit(self, volume_id: str, top: str, base: str) -> None:
        self._belongs(base, volume_id)
        with self._asked():
            between = self._between(volume_id, top, base)
            self._refuse_others(between)
            soundness.require(self.path, base, self._format(base))
            qemu_img.commit(self.path, top, base, len(between))

    def pull(self, volume_id: str, name: str, backing: str | None, backing_format: str | None) -> None:
        self._belongs(name, volume_id)
        inspection.plain_name(backing or name)  # a linked clone's lowest file is backed by another volume's
        with self._asked():
            qemu_img.pull(self.path, name, backing, backing_format, inspection.MAX_DEPTH)

    def repoint(self, volume_id: str, name: str, backing: str, backing_format: str) -> None:
        self._belongs(name, volume_id)
        self._belongs(backing, volume_id)
        with self._asked():
            qemu_img.repoint(self.path, name, backing, backing_format)

    def rename(self, volume_id: str, name: str, to: str) -> None:
        self._belongs(name, volume_id)
        self._belongs(to, volume_id)
        with self._asked():
            for dependant in self.dependants(name):
                raise ChainConflict(f"{name} cannot be renamed: {dependant} is backed by it")
            files.rename_new(self.path, name, to)

    def resize(self, volume_id: str, name: str, format_: str, size: int) -> None:
        self.probe_for_writing()
        self._belongs(name, volume_id)
        with self._asked():
            soundness.require(self.path, name, format_)
            qemu_img.resize(self.path, name, format_, size)

    def repair(self, volume_id: str, name: str, format_: str) -> None:
        self._belongs(name, volume_id)
        with self._asked():
            qemu_img.repair_all(self.path, name, format_)

    def check_sound(self, volume_id: str, among: Collection[str] | None = None, closing: Collection[str] = ()) -> None:
        """Raises NotSound when a file of the volume is not sound and ``make_sound`` could not help it now; of the files
        ``among`` these where they are given."""
        with self._asked():
            for name in [each for each in self.files(volume_id) if among is None or each in among]:
                soundness.refuse_beyond_repair(self.path, name, self._format(name))
            for name in [each for each in self.files(volume_id) if each in closing]:
                soundness.require_for_closing(self.path, name, self._format(name))

    def check_whole(self, name: str, format_: str, seconds: float) -> None:
        """Raises BadImage when a file that does not belong to a volume yet is damaged beyond what ``make_sound`` repairs, or
        when ``seconds`` are not enough to check a file whose writer died."""
        with self._asked():
            soundness.check(self.path, inspection.plain_name(name), format_, seconds)

    def make_sound(self, volume_id: str) -> list[str]:
        """Repairs the reference counts of the volume's files whose writer died; returns what was done. Raises NotSound, also
        while a program has such a file open."""
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
        """Tells whether anything was ever written to an overlay."""
        with self._asked():
            return qcow2.holds_data(self.path, inspection.plain_name(name))

    def sweep(self) -> None:
        """Removes trash that a crash left behind."""
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
        adopted = self.adopted()
        return [name for name in self.listing() if (names.parse(name) or (adopted.get(name),))[0] == volume_id]

    def listing(self) -> list[str]:
        self.probe()
        return files.listing(self.path)

    def in_use(self, volume_id: str) -> list[str]:
        with self._asked():
            found = {name: users.identity(self.path / name) for name in self.files(volume_id)}
            open_ = users.programs([each for each in found.values() if each])
            return [name for name, each in found.items() if each in open_ or self._may_be_locked(name)]

    def _may_be_locked(self, name: str) -> bool:
        """A file that was there a moment ago and has another name now counts as in use: it is looked at again."""
        try:
            return files.is_locked(self.path, name)
        except FileNotFoundError:
            return True

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
        self._belongs(name, volume_id)
        with self._asked():
            dependants = self.dependants(name)
            if dependants:
                raise ChainConflict(f"{name} cannot be removed: {', '.join(dependants)} is backed by it")
            own = name if names.parse(name) else names.base_name(volume_id)  # trash is known by its name
            trash.put(self.path, name, names.trash_name(own))
            parents.forget(self.path, name)

    def manage_file(self, volume_id: str, name: str, to: str) -> None:
        """Gives a file that does not belong to a volume yet a volume's name, and the mode 0660 of all volumes' files."""
        inspection.plain_name(name)
        self._belongs(to, volume_id)
        with self._asked():
            if files.exists(self.path, name):
                # Before it has its name: a crash in between leaves no volume that others may read.
                entries.set_mode(self.path, name, MODE)
            files.rename_new(self.path, name, to)

    def unmanage_file(self, volume_id: str, name: str, to: str) -> None:
        """Gives a volume's file a name that no volume has."""
        self._belongs(name, volume_id)
        inspection.plain_name(to)
        with self._asked():
            files.rename_new(self.path, name, to)

    def remove_temporary(self, volume_id: str, token: str) -> None:
        """Removes what an interrupted ``create``, ``create_overlay`` or ``copy`` left."""
        with self._asked():
            files.remove_temporary(self.path, names.temporary_name(volume_id, token))

    def holds_temporary(self, volume_id: str, token: str) -> bool:
        """Tells whether there is something that ``remove_temporary`` would remove."""
        with self._asked():
            wanted = names.temporary_name(volume_id, token)
            return wanted in workdir.lying(self.path) or files.exists(self.path, wanted)

    def read_document(self, name: str) -> dict[str, Any]:
        """Returns a JSON document beside the files; empty when there is none. Raises BadImage when the file is not JSON."""
        inspection.plain_name(name)
        with self._asked():
            try:
                found = files.read_json(self.path, name, files.LONGEST_RECORD)
            except (ValueError, RecursionError) as error:
                raise BadImage(f"{name} on the share {self.path} is no JSON document: {error}") from error
        if not isinstance(found, dict | None):
            raise BadImage(f"{name} on the share {self.path} holds no JSON object")
        return found or {}

    def write_document(self, name: str, document: Mapping[str, Any]) -> None:
        """Replaces a JSON document atomically and durably; an empty one removes the file."""
        inspection.plain_name(name)
        with self._asked():
            if document:
                files.write_json(self.path, name, document, 0o600 if self._is_of_adopted(name) else MODE)
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
        """By file of the volume, the files based on it that are of none of the volumes ``known``, nor its own."""
        with self._asked():
            return self._readers(self.files(volume_id), {volume_id, *known})

    def _readers(self, wanted: Collection[str], known: Collection[str] = ()) -> Mapping[str, list[str]]:
        """Parent images have other names than volumes, and so may a file that somebody based on a volume; it may be in a
        directory further down. Files of the volumes ``known`` are not read, nor what only looks like a header (R3)."""
        listed, adopted = files.listing(self.path), self.adopted()
        apart = {
            name for name in listed if names.is_ours_apart(name) or (names.parse(name) or (adopted.get(name),))[0] in known
        }
        return users.readers(self.path, wanted, apart | set(self.opaque()))

    def _between(self, volume_id: str, top: str, base: str) -> list[str]:
        """The files from ``top`` down to ``base``, both included."""
        found = [self._belongs(top, volume_id)]
        while found[-1] != base:
            below = qcow2.read(self.path, found[-1]).backing
            if below is None or len(found) > inspection.MAX_DEPTH:
                raise StepFailed(f"{top} is not backed by {base}")
            found.append(self._belongs(below, volume_id))
        return found

    def _refuse_others(self, between: Sequence[str]) -> None:
        for name, others in self._readers(between[1:]).items():
            for other in others:
                if other not in between:
                    raise ChainConflict(f"{name} backs {other} too: committing would change what {other} reads")

"""A share in memory: files that hold clusters, changed in the same small moves as on a disk, so that a test may stop there.

It promises what ``contract.Share`` promises and fails where a real share fails.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.errors import BadImage, ChainConflict, ShareUnavailable, StepFailed
from stillframe.host.copies import Source
from stillframe.volumes.storage.drivers.contract import CHAINS, Capabilities
from tests.unit.builders import SHARE

CLUSTER = 1 << 16
MARKER = ".share-id"


@dataclass
class File:
    """``leaks``: a commit into it was interrupted, and nobody has repaired it."""

    image: Image
    clusters: dict[int, int] = field(default_factory=dict)
    leaks: bool = False


def nothing(_what: str) -> None:
    """What a share does between two moves unless a test asks for more."""


class MemoryShare:
    """``moment`` is called with the name of the move before and after each one; ``looked`` whenever headers were read."""

    def __init__(self, capabilities: Capabilities = CHAINS) -> None:
        self.capabilities = capabilities
        self.entries: dict[str, File] = {}
        self.documents: dict[str, dict[str, Any]] = {}
        self.opened: set[str] = set()  # names some program has open
        self.silent = False
        self.space, self.kept = 1 << 40, 0
        self.moment: Callable[[str], None] = nothing
        self.looked: Callable[[], object] = lambda: None

    # what a test puts and reads

    def write(self, name: str, cluster: int, value: int) -> None:
        self.entries[name].clusters[cluster] = value

    def content(self, name: str) -> dict[int, int]:
        file = self.entries[name]
        below = self.content(file.image.backing) if file.image.backing else {}
        return {**below, **file.clusters}

    # looking

    @property
    def path(self) -> Path:
        return Path(SHARE)

    def probe(self) -> None:
        if self.silent:
            raise ShareUnavailable(f"the share {SHARE} does not answer")

    def probe_for_writing(self, needed: int = 0) -> None:
        self.probe()
        if self.space < self.kept + needed:
            raise ShareUnavailable(f"the share {SHARE} is full", free=self.space, needed=needed)

    def _read(self, name: str, format_: str) -> Image:
        file = self.entries.get(name)
        if file is None:
            raise FileNotFoundError(name)
        if sum(other is file for other in self.entries.values()) > 1:
            raise BadImage(f"{name} is not a regular file with one name")
        if file.image.format != format_:
            raise BadImage(f"{name} is no {format_} file")
        return replace(file.image, name=name)

    def format_of(self, name: str, base_format: str) -> str:
        if not self.capabilities.chains:
            return "raw"
        return base_format if names.is_base(name) else "qcow2"

    def images(self, volume_id: str, base_format: str) -> Mapping[str, Image]:
        found = {name: self._read(name, self.format_of(name, base_format)) for name in self.files(volume_id)}
        self.looked()
        return found

    def image(self, name: str, format_: str) -> Image:
        self.probe()
        return self._read(name, format_)

    def files(self, volume_id: str) -> list[str]:
        self.probe()
        return [name for name in sorted(self.entries) if (names.parse(name) or ("",))[0] == volume_id]

    def listing(self) -> list[str]:
        self.probe()
        return sorted({*self.entries, *self.documents, MARKER})

    def in_use(self, volume_id: str) -> list[str]:
        for name in self.files(volume_id):
            self._read(name, self.entries[name].image.format)
        return [name for name in self.files(volume_id) if name in self.opened]

    def users(self, wanted: Collection[str]) -> Mapping[str, list[str]]:
        self.probe()
        found = {
            name: [
                *(["a program has it open"] if name in self.opened else []),
                *(f"{other} is based on it" for other in self.dependants(name)),
            ]
            for name in wanted
        }
        return {name: words for name, words in found.items() if words}

    def dependants(self, name: str) -> list[str]:
        self.probe()
        found = [other for other, file in self.entries.items() if file.image.backing == name and not names.is_trash(other)]
        return sorted(other for other in found if sum(self.entries[other] is file for file in self.entries.values()) == 1)

    def foreign_readers(self, volume_id: str, known: Collection[str]) -> Mapping[str, list[str]]:
        ours = {volume_id, *known}
        found = {
            name: [each for each in self.dependants(name) if (names.parse(each) or ("",))[0] not in ours]
            for name in self.files(volume_id)
        }
        return {name: above for name, above in found.items() if above}

    def visible(self, name: str, format_: str, shared: bool = False) -> Sequence[int]:
        self.image(name, format_)
        found, seen, below = [], set[int](), [*self.below(name)]
        for each in (name, *below):
            fresh = set(self.entries[each].clusters) - seen
            found.append(len(fresh) * CLUSTER)
            seen |= fresh
        return found

    def differing(self, name: str, above: str) -> int:
        if not self.capabilities.chains:
            one, other = self.content(name), self.content(above)
            return sum(one.get(each) != other.get(each) for each in {*one, *other}) * CLUSTER
        return sum(self.visible(name, "qcow2")[: [name, *self.below(name)].index(above)])

    def holds_data(self, name: str) -> bool:
        self.probe()
        return bool(self.entries[name].clusters)

    def free(self) -> int:
        self.probe()
        return self.space

    def total(self) -> int:
        self.probe()
        return 1 << 42

    def stamp(self, name: str) -> str:
        self.probe()
        return str(sorted(self.entries[name].clusters.items()))

    def allocated(self, name: str) -> int:
        return len(self.entries[name].clusters) * CLUSTER

    def below(self, name: str) -> list[str]:
        found: list[str] = []
        below = self.entries[name].image.backing
        while below is not None:
            found.append(below)
            below = self.entries[below].image.backing
        return found

    def _between(self, top: str, base: str | None) -> dict[int, int]:
        """The clusters a reader of ``top`` finds above ``base``."""
        found: dict[int, int] = {}
        for name in (top, *self.below(top)):
            if name == base:
                break
            found = {**self.entries[name].clusters, **found}
        return found

    # new files

    def create(self, volume_id: str, image: Image, token: str) -> None:
        self._publish(volume_id, image, token, {})

    def create_overlay(self, volume_id: str, image: Image, token: str) -> None:
        if image.backing is None:
            raise BadImage(f"{image.name} is not an overlay")
        self._publish(volume_id, image, token, {})

    def copy(self, volume_id: str, source: Source, image: Image, token: str) -> None:
        self._read(source.name, source.format)
        self._publish(volume_id, image, token, self.content(source.name))

    def _publish(self, volume_id: str, image: Image, token: str, clusters: dict[int, int]) -> None:
        self.probe_for_writing()
        names.check_belongs(image.name, volume_id)
        temporary = names.temporary_name(volume_id, token)
        self.moment("publish")
        self.entries.pop(temporary, None)
        if image.name in self.entries:
            if self._read(image.name, image.format) != image:
                raise StepFailed(f"{image.name} exists already and is another file")
            return
        half = dict(list(clusters.items())[: len(clusters) // 2])
        for made in (File(Image(temporary, image.format, 0)), File(image, half), File(image, dict(clusters))):
            self.entries[temporary] = made
            self.moment("publish")
        self.entries[image.name] = self.entries[temporary]
        self.moment("publish")
        del self.entries[temporary]
        self.moment("publish")

    def remove_temporary(self, volume_id: str, token: str) -> None:
        self.probe()
        self.moment("remove temporary")
        self.entries.pop(names.temporary_name(volume_id, token), None)

    def holds_temporary(self, volume_id: str, token: str) -> bool:
        return names.temporary_name(volume_id, token) in self.listing()

    def clone(self, volume_id: str, source: str, image: Image, token: str) -> None:
        if not self.capabilities.native_snapshots:
            raise StepFailed(f"the share {SHARE} has no snapshots of its own")
        self._read(source, "raw")
        self._publish(volume_id, image, token, self.content(source))

    def copy_out(self, source: Source, target: Path, format_: str, compress: bool) -> None:
        raise NotImplementedError

    def copy_layer_out(self, source: Source, target: Path, backing: str, above: str | None = None) -> None:
        raise NotImplementedError

    # changes

    def commit(self, volume_id: str, top: str, base: str) -> None:
        self.probe()
        chain = [top, *self.below(top)]
        if base not in chain[1:]:
            raise StepFailed(f"{top} is not backed by {base}")
        between = [names.check_belongs(name, volume_id) for name in chain[: chain.index(base) + 1]]
        for name in between[1:]:
            for other in self.dependants(name):
                if other not in between:
                    raise ChainConflict(f"{name} backs {other} too")
        self.moment("commit")
        file, merged = self.entries[base], self._between(top, base)
        leaks, file.leaks = file.leaks, True
        file.clusters.update(dict(list(merged.items())[: len(merged) // 2]))
        self.moment("commit")
        file.clusters.update(merged)
        file.image = replace(file.image, size=max(file.image.size, self.entries[top].image.size))
        file.leaks = leaks
        self.moment("commit")

    def repair(self, volume_id: str, name: str, format_: str) -> None:
        self._read(names.check_belongs(name, volume_id), format_)
        self.moment("repair")
        self.entries[name].leaks = False

    def check_sound(self, volume_id: str, among: Collection[str] | None = None, closing: Collection[str] = ()) -> None:
        self.probe()

    def check_whole(self, name: str, format_: str, seconds: float) -> None:
        self._read(name, format_)

    def make_sound(self, volume_id: str) -> list[str]:
        self.probe()
        return []

    def pull(self, volume_id: str, name: str, backing: str | None, backing_format: str | None) -> None:
        image = self.image(names.check_belongs(name, volume_id), "qcow2")
        if image.backing == backing:
            return
        if backing is not None and backing not in self.below(name):
            raise StepFailed(f"{backing} is not behind {name}")
        self.moment("pull")
        file, merged = self.entries[name], self._between(name, backing)
        for pulled in (dict(list(merged.items())[: len(merged) // 2]), merged):
            file.clusters = {**pulled, **file.clusters}
            self.moment("pull")
        file.image = replace(file.image, backing=backing, backing_format=backing_format)
        self.moment("pull")

    def repoint(self, volume_id: str, name: str, backing: str, backing_format: str) -> None:
        self.image(names.check_belongs(name, volume_id), "qcow2")
        names.check_belongs(backing, volume_id)
        self.moment("repoint")
        file = self.entries[name]
        file.image = replace(file.image, backing=backing, backing_format=backing_format)
        self.moment("repoint")

    def resize(self, volume_id: str, name: str, format_: str, size: int) -> None:
        self.probe_for_writing()
        image = self._read(names.check_belongs(name, volume_id), format_)
        if image.size > size:
            raise ChainConflict(f"{name} has {image.size} bytes")
        self.moment("resize")
        self.entries[name].image = replace(self.entries[name].image, size=size)
        self.moment("resize")

    def rename(self, volume_id: str, name: str, to: str) -> None:
        self.probe()
        names.check_belongs(name, volume_id)
        names.check_belongs(to, volume_id)
        if self.dependants(name):
            raise ChainConflict(f"{name} cannot be renamed")
        self._rename(name, to)

    def manage_file(self, volume_id: str, name: str, to: str) -> None:
        self.probe()
        names.check_belongs(to, volume_id)
        self._rename(name, to)

    def unmanage_file(self, volume_id: str, name: str, to: str) -> None:
        self.probe()
        names.check_belongs(name, volume_id)
        self._rename(name, to)

    def _rename(self, name: str, to: str) -> None:
        """First the new name, then without the old: in between the file has both."""
        self.moment("rename")
        if name not in self.entries:
            if to not in self.entries:
                raise FileNotFoundError(name)
            return
        if self.entries.setdefault(to, self.entries[name]) is not self.entries[name]:
            raise FileExistsError(to)
        self.moment("rename")
        del self.entries[name]
        self.moment("rename")

    def remove(self, volume_id: str, name: str) -> None:
        self.probe()
        names.check_belongs(name, volume_id)
        if self.dependants(name):
            raise ChainConflict(f"{name} cannot be removed")
        self.moment("remove")
        if name in self.entries:
            self.entries[names.trash_name(name)] = self.entries.pop(name)
        self.moment("remove")
        self.entries.pop(names.trash_name(name), None)
        self.moment("remove")

    def sweep(self) -> None:
        self.probe()
        for name in [name for name in self.entries if names.is_trash(name)]:
            del self.entries[name]

    # documents

    def read_document(self, name: str) -> dict[str, Any]:
        self.probe()
        return dict(self.documents.get(name, {}))

    def write_document(self, name: str, document: Mapping[str, Any]) -> None:
        self.probe()
        self.moment("document")
        if document:
            self.documents[name] = dict(document)
        else:
            self.documents.pop(name, None)
        self.moment("document")

"""Block storage's client of the image service: Glance's API v2, as the service user or without signing in.

The service user may see every project's images, its callers may not: whatever is read for somebody is checked against
that project first, by the same rules as Glance's own (glance 33.0, ``glance/db/utils.py: is_image_visible``).
"""

import hashlib
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from stillframe.config import Settings
from stillframe.documents import Schema, Shape
from stillframe.errors import Conflict, ImageNotUsable, ImageServiceUnavailable, NotFound
from stillframe.host import files
from stillframe.volumes.clients.glance_session import CHUNK, ImageSession

_HASHES = ("sha512", "sha384", "sha256", "sha3_512", "sha3_256", "blake2b")
_RESERVED = re.compile(r"os_glance.*", re.DOTALL)


@dataclass(frozen=True)
class ImageFacts:
    """What the image service says about an image. Sizes are in bytes, ``min_disk`` in GiB, ``min_ram`` in MiB."""

    id: str
    name: str | None
    status: str
    owner: str | None
    visibility: str
    disk_format: str | None
    container_format: str | None
    size: int | None
    virtual_size: int | None
    min_disk: int
    min_ram: int
    checksum: str | None
    os_hash_algo: str | None
    os_hash_value: str | None
    protected: bool
    properties: Mapping[str, str]


_FACTS = frozenset(each.name for each in fields(ImageFacts)) - {"properties"}
_TEXT: Schema = {"type": ["string", "null"]}
_NUMBER: Schema = {"type": ["integer", "null"], "minimum": 0, "maximum": 1 << 62}
_IMAGE = Shape(
    {
        "type": "object",
        "required": ["id", "status"],
        "properties": {
            **dict.fromkeys(("name", "owner", "visibility", "disk_format", "container_format"), _TEXT),
            **dict.fromkeys(("checksum", "os_hash_algo", "os_hash_value"), _TEXT),
            **dict.fromkeys(("size", "virtual_size", "min_disk", "min_ram"), _NUMBER),
            "id": {"type": "string"},
            "status": {"type": "string"},
            "protected": {"type": ["boolean", "null"]},
        },
    }
)
_NO_PROPERTY = _FACTS | {
    "os_hidden",
    "created_at",
    "updated_at",
    "tags",
    "self",
    "file",
    "schema",
    "stores",
    "locations",
    "direct_url",
}


@dataclass(frozen=True)
class NewImage:
    """An image to be made. The caller chooses ``id``, so that the request can be repeated.

    ``visibility`` is not checked against the user's rights here: the service user may make an image public, most users
    may not, so that is a matter for the policy of the route.
    """

    id: str
    name: str
    disk_format: str
    container_format: str
    project_id: str
    visibility: str = "shared"
    protected: bool = False
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Uploaded:
    """What was sent, and what the image service says it holds: ``size`` in bytes, ``sha512`` in hexadecimal digits."""

    size: int
    sha512: str


class ImageClient:
    """Shows, downloads, creates, uploads and deletes images. Safe to use from several threads.

    Every method raises ImageServiceNotConfigured, ImageServiceUnavailable (which may be tried again) and, when the image
    service does not let the service user do it, Forbidden.
    """

    def __init__(self, settings: Settings) -> None:
        self._session = ImageSession(settings.image)

    def check_configured(self) -> None:
        """Raises ImageServiceNotConfigured with what to configure; sends nothing."""
        self._session.check_configured()

    def show(self, image_id: str, project_id: str) -> ImageFacts:
        """Returns what is known of an image that the project may see. Raises NotFound."""
        facts = self._facts(image_id)
        if not self._visible(facts, project_id):
            raise _no_image(image_id)
        return facts

    def download(self, image_id: str, project_id: str, target: Path, limit: int) -> ImageFacts:
        """Writes an image's content into the new file ``target``, which only its owner can read (0600).

        Raises NotFound; ImageNotUsable for an image that is not active, has more than ``limit`` bytes, or whose content is
        not what the image service's hash says; FileExistsError when there is a file; ShareUnavailable for a full disk.
        After an error there is no file.
        """
        facts = self.show(image_id, project_id)
        _check_worth(facts, limit)
        digest, wanted = _hash_of(facts)
        with self._session.send("GET", f"{_path(image_id)}/file") as answer, _new_private_file(target) as file:
            size = 0
            for chunk in self._session.chunks(answer, f"image {image_id}"):
                size += len(chunk)
                if size > limit:
                    raise ImageNotUsable(f"image {image_id} is longer than it is said to be, and than {limit} bytes")
                digest.update(chunk)
                file.write(chunk)
        if size != facts.size or digest.hexdigest() != wanted:
            target.unlink()
            raise ImageNotUsable(f"the content of image {image_id} does not have the {digest.name} the image service tells")
        return facts

    def create(self, wanted: NewImage) -> str:
        """Makes an image without content and returns its id; the same image again is the same image.

        Raises Conflict when the id belongs to another image or did once.
        """
        properties = {key: value for key, value in wanted.properties.items() if _is_property(key)}
        body = {
            **properties,
            "id": wanted.id,
            "name": wanted.name,
            "disk_format": wanted.disk_format,
            "container_format": wanted.container_format,
            "visibility": wanted.visibility,
            "protected": wanted.protected,
            "owner": wanted.project_id,
        }
        try:
            return str(self._session.document("POST", "/v2/images", json=body)["id"])
        except Conflict:
            return self._made_before(wanted)

    def _made_before(self, wanted: NewImage) -> str:
        taken = Conflict(f"the image service has, or had, another image with the id {wanted.id}")
        try:
            found = self._facts(wanted.id)
        except NotFound:
            raise taken from None
        ours = (wanted.name, wanted.project_id, wanted.disk_format, wanted.container_format)
        if (found.name, found.owner, found.disk_format, found.container_format) != ours:
            raise taken
        return found.id

    def upload(self, image_id: str, path: Path) -> Uploaded:
        """Sends a file as the content of an image and compares what the image service says it holds afterwards.

        May be repeated: an image that has its content already is compared with the file. Raises NotFound; Conflict while
        somebody else is uploading (or died of it); ImageNotUsable when the image service does not take the file, as Glance
        does a qcow2 file with a backing file or of another format than declared, or when it holds something else afterwards;
        QuotaExceeded.
        """
        with os.fdopen(files.open_regular(path.parent, path.name), "rb") as file:
            before = self._facts(image_id)
            if before.status == "active":
                return _compared(before, file, _digest(file, "sha512"))
            if before.status != "queued":
                raise Conflict(f"image {image_id} is {before.status}: delete it and begin with another id")
            body = _Body(file)
            self._session.upload(f"{_path(image_id)}/file", body)
            return _compared(self._facts(image_id), file, body.sha512)

    def is_complete(self, image_id: str, sha512: str) -> bool:
        """Tells whether the image has its content, and it is this one."""
        try:
            facts = self._facts(image_id)
        except NotFound:
            return False
        return facts.status == "active" and (facts.os_hash_algo, facts.os_hash_value) == ("sha512", sha512)

    def delete(self, image_id: str) -> None:
        """Deletes an image; one that is gone is fine. A protected one is deleted only if it never got its content."""
        try:
            facts = self._facts(image_id)
            if facts.protected:
                if facts.status == "active":
                    raise Conflict(f"image {image_id} is protected and complete; it stays")
                self._session.patch(_path(image_id), [{"op": "replace", "path": "/protected", "value": False}])
            self._session.document("DELETE", _path(image_id))
        except NotFound:
            return

    def _facts(self, image_id: str) -> ImageFacts:
        path = _path(image_id)
        try:
            found = self._session.document("GET", path)
        except NotFound:
            raise _no_image(image_id) from None
        flaw = _IMAGE.flaw(found)
        if flaw is not None or not path.endswith(f"/{found['id']}".lower()):
            why = "another image" if flaw is None else flaw
            raise ImageServiceUnavailable(f"the image service answers {path} with something that is no image: {why}")
        return _facts_of(found)

    def _visible(self, facts: ImageFacts, project_id: str) -> bool:
        if facts.owner in (None, project_id) or facts.visibility in ("public", "community"):
            return True
        return facts.visibility == "shared" and self._is_member(facts.id, project_id)

    def _is_member(self, image_id: str, project_id: str) -> bool:
        try:
            self._session.document("GET", f"{_path(image_id)}/members/{quote(project_id, safe='')}")
        except NotFound:
            return False
        return True


class _Body:
    """A file as the body of a request: hashed while it is sent, its length known beforehand."""

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0)
        self._file = file
        self._length = os.fstat(file.fileno()).st_size
        self._hash = hashlib.sha512()

    @property
    def sha512(self) -> str:
        return self._hash.hexdigest()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.read(CHUNK):
            yield chunk

    def read(self, amount: int = CHUNK) -> bytes:
        chunk = self._file.read(max(amount, 0) or CHUNK)
        self._hash.update(chunk)
        return chunk


def _path(image_id: str) -> str:
    """The path of an image; an id is printed anew and never copied into it."""
    try:
        return f"/v2/images/{uuid.UUID(image_id)}"
    except ValueError:
        raise _no_image(image_id) from None


def _no_image(image_id: str) -> NotFound:
    """One that does not exist and one the project may not see are told alike."""
    return NotFound(f"image {image_id[:80]} could not be found")


def _is_property(key: str) -> bool:
    return key not in _NO_PROPERTY and not _RESERVED.fullmatch(key)


def _facts_of(document: Mapping[str, Any]) -> ImageFacts:
    named: dict[str, Any] = {name: document.get(name) for name in _FACTS}
    named |= {name: named[name] or 0 for name in ("min_disk", "min_ram")}
    properties = {key: value for key, value in document.items() if _is_property(key) and isinstance(value, str)}
    return ImageFacts(**named, properties=properties)


def _check_worth(facts: ImageFacts, limit: int) -> None:
    """Raises ImageNotUsable for an image whose download is not worth beginning."""
    if facts.status != "active":
        raise ImageNotUsable(f"image {facts.id} is not active but {facts.status}")
    if facts.size is None or facts.size > limit:
        raise ImageNotUsable(f"image {facts.id} has {facts.size} bytes, more than the {limit} there is room for")


def _hash_of(facts: ImageFacts) -> tuple[Any, str]:
    """Returns a hash to fill and what it must come to. Raises ImageNotUsable when the image service tells none."""
    if facts.os_hash_algo in _HASHES and facts.os_hash_value:
        return hashlib.new(facts.os_hash_algo), facts.os_hash_value
    if facts.checksum:
        return hashlib.md5(usedforsecurity=False), facts.checksum
    raise ImageNotUsable(f"the image service tells no hash of image {facts.id}, so its content cannot be checked")


def _compared(facts: ImageFacts, file: BinaryIO, sha512: str) -> Uploaded:
    """Holds what the image service says against a file. Raises ImageNotUsable when it is something else."""
    size = os.fstat(file.fileno()).st_size
    if facts.status != "active":
        raise ImageNotUsable(f"image {facts.id} is {facts.status} after its upload; delete it and begin with another id")
    digest, wanted = _hash_of(facts)
    found = sha512 if digest.name == "sha512" else _digest(file, digest.name)
    if (facts.size, wanted) != (size, found):
        raise ImageNotUsable(
            f"the image service holds something else as image {facts.id} than the file: its {digest.name} differs"
        )
    return Uploaded(size, sha512)


def _digest(file: BinaryIO, name: str) -> str:
    file.seek(0)
    digest = hashlib.new(name, usedforsecurity=False)
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _new_private_file(target: Path) -> Iterator[BinaryIO]:
    """A file that did not exist, for its owner alone; gone again if what is done with it fails."""
    with files.share_errors(target.parent):
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
        except BaseException:
            target.unlink(missing_ok=True)
            raise

"""Copies what a reader of a chain sees: into new files on the share, out of it for images and backups, and back in.

qemu-img never syncs what it converts (F7, qemu 7.2): every file made here is fsynced here.

A copy on the share is compared with its source while the disk writes it out, so the comparison takes hardly any extra time.
Writing out earlier, while the source is read, made a copy with a cold cache a fifth slower, because the disk does one thing at
a time. ``-t none`` and ``-W`` gained nothing; reflinks and ``-C`` on XFS took a tenth of the time. The figures are in
``docs/reference/bench-offline.md``.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from stillframe.chain.image import Image
from stillframe.errors import ChainConflict, StepFailed
from stillframe.host import files, image_command, inspection, pins, publish, qcow2, qemu_img, workdir
from stillframe.host.image_command import command, limits
from stillframe.host.pins import Pinned
from stillframe.host.run import Limits, Place, attempt, failure, run

_ZSTD = "compression_type=zstd"
_APART = ".apart"
_CLUSTERS = f"cluster_size={64 << 10}"  # as in a full backup; differences are rounded up to clusters


@dataclass(frozen=True)
class Source:
    """A file that is read through its chain of at most ``depth`` files. ``directory`` None means the share itself.

    ``confirm`` is called before a copy gets its name. It raises when the source turned out to be something else than expected.
    ``like`` is the file on the target's share whose rights a copy gets, as ``publish.finish`` has it.
    """

    name: str
    format: str
    depth: int
    directory: Path | None = None
    confirm: Callable[[], None] = lambda: None
    like: str | None = None


@dataclass(frozen=True)
class _Held:
    """A source that was checked and is held open, and the greatest depth it may have."""

    pinned: Pinned
    depth: int

    @property
    def format(self) -> str:
        return self.pinned.images[0].format

    @property
    def size(self) -> int:
        """The size in bytes. QEMU counts in sectors, so the last sector of a raw file is filled up with zeros."""
        return (self.pinned.images[0].size + 511) // 512 * 512

    def limits(self, size: int | None = None) -> Limits:
        return limits(self.depth + 1, size=size)


@contextmanager
def _hold(share: Path, source: Source) -> Iterator[_Held]:
    with pins.chain(source.directory or share, source.name, source.format) as pinned:
        yield _Held(pinned, max(source.depth, len(pinned.images)))


def publish_copy(share: Path, source: Source, image: Image, token: str, volume_id: str) -> None:
    """Publishes a full copy of ``source`` as ``image``: qcow2 or raw, of the same size or larger (the rest is zeros).

    With ``image.backing`` the new file is an overlay on that file, but holds the whole content itself: nothing is ever read
    from the backing file. May be repeated with the same token. Raises StepFailed when the source is larger than ``image.size``
    or the copy does not compare equal, ChainConflict when the source was written meanwhile, and what ``source.confirm`` raises.
    """
    with _hold(share, source) as held:
        if image.size < held.size:
            raise StepFailed(f"{source.name} has {held.size} bytes and does not fit into the {image.size} of {image.name}")
        temporary = publish.begin(share, image, token, volume_id)
        if temporary is None:
            return
        with workdir.working(share) as place:
            with _removed_after_an_error(place, temporary):
                _fill(held, source.confirm, place, replace(image, name=temporary), share)
            qemu_img.grow(place, temporary, image.format, image.size, behind=share)
            qemu_img.check(place, temporary, image.format)
    publish.finish(share, temporary, image, source.like)


@contextmanager
def _removed_after_an_error(place: Path, temporary: str) -> Iterator[None]:
    """Removes the copy after any error, because it may hold what nobody was to read."""
    try:
        yield
    except (StepFailed, ChainConflict):
        files.unlink(place, temporary)
        raise


def _fill(held: _Held, confirm: Callable[[], None], place: Path, image: Image, share: Path) -> None:
    """Makes ``image``, an empty file in ``place``, a durable copy. Its backing file is on the share."""
    with files.made_durable(place, image.name) as begin_sync, ThreadPoolExecutor(1, "confirm") as helper:
        shared = _share_blocks(held, place, image.name)
        # One file of the same format that is backed by nothing: the blocks that the kernel shared are the whole copy.
        whole = shared and len(held.pinned.images) == 1 and image.backing is None and image.format == held.format
        if not whole:
            _copy(place, held, image, offload=shared)
        begin_sync()  # the disk writes while one CPU compares and another one confirms
        confirmed = helper.submit(confirm)
        if not whole:
            with pins.chain(place, image.name, image.format, share) as copy:
                if not _equal(held, _Held(copy, held.depth)):
                    raise StepFailed(f"the copy of {held.pinned.images[0].name} differs from it")
        held.pinned.confirm()
        confirmed.result()


def _share_blocks(held: _Held, place: Path, temporary: str) -> bool:
    """Makes ``temporary`` a reflink of the source's own file. False: the file system cannot, or a guest writes to the file."""
    handle = held.pinned.opened[0].handle
    return not files.is_written_open(handle) and files.reflink(handle, place, temporary)


def _copy(place: Path, held: _Held, image: Image, offload: bool) -> None:
    """``offload`` lets the file system copy (-C), which takes a tenth of the time where it can share blocks. It does not look
    for zeros in the content, so it is not used elsewhere, where it takes as long as any copy."""
    options = ["-C"] if offload else []
    there = Place(place, held.pinned.descriptors)
    if image.backing is None or image.backing_format is None:
        words = command("convert", [held.format, image.format], [*options, held.pinned.path, image.name])
        run(words, cwd=there, limits=held.limits(held.size))
        return
    # Made with the source's size: convert leaves the tail alone, resize fills it with zeros where the backing file is longer.
    run(command("create", [image.format], [image.name, str(held.size)]), cwd=place, limits=limits(1))
    target = image_command.above_nothing(image.name, held.size)
    words = command("fill", [held.format, image.format], [*options, held.pinned.path, target])
    run(words, cwd=there, limits=held.limits(held.size))
    qemu_img.repoint(place, image.name, image.backing, image.backing_format)


def compare(share: Path, a: Source, b: Source) -> bool:
    """Tells whether both read the same. If one is longer, the rest of it must be zeros."""
    with _hold(share, a) as one, _hold(share, b) as other:
        return _equal(one, other)


def _equal(one: _Held, other: _Held) -> bool:
    words = command("compare", [one.format, other.format], [one.pinned.path, other.pinned.path])
    there = Place(one.pinned.directory, (*one.pinned.descriptors, *other.pinned.descriptors))
    outcome = attempt(words, cwd=there, limits=limits(one.depth + other.depth))
    if outcome.code not in (0, 1):
        raise failure(words, outcome)
    return outcome.code == 0


def copy_out(source: Source, share: Path, target: Path, format_: str, compress: bool) -> None:
    """Writes what a reader of ``source`` sees into the single file ``target`` outside the share, and replaces that file.

    ``compress`` needs qcow2 and uses zstd. The file and its name are durable afterwards. A crash leaves a file that nobody may
    trust, so the caller gives it its real name later.
    """
    if compress and format_ != "qcow2":
        raise StepFailed(f"a {format_} file cannot be compressed")
    options = ["-c", "-o", _ZSTD] if compress else []
    with _hold(share, source) as held, workdir.held(target.parent) as place:
        _convert(held, place, target.name, format_, options)


def _convert(held: _Held, place: Path, name: str, format_: str, options: Sequence[str] = ()) -> None:
    """Converts into ``name``, a new file in a directory that nobody else may enter, durably."""
    _renew(place, name)
    with files.made_durable(place, name), _removed_after_an_error(place, name):
        words = command("convert", [held.format, format_], [*options, held.pinned.path, name])
        run(words, cwd=Place(place, held.pinned.descriptors), limits=held.limits(held.size))
        held.pinned.confirm()
    _expect(place, Image(name, format_, held.size))


def copy_layer_out(share: Path, source: Source, target: Path, backing: str, above: str | None = None) -> None:
    """Writes into ``target`` once, compressed with zstd, what a reader of ``source`` sees and a reader of ``above`` does not.

    ``above`` is a file behind ``source``, by default the nearest one. ``target``, which is replaced, is a qcow2 overlay that
    names ``backing``, a qcow2 file beside it that reads as ``above`` does and need not exist yet. What both readers see alike
    is not stored. Where no file between them holds it, it is not even read. What became zero is stored as a zero cluster, which
    hides older data; behind the end of ``above`` everything is zero already.

    While this runs, an overlay of the same content that is not compressed is beside ``target``: QEMU 7.2 compares only in
    ``rebase``, which cannot compress, and compresses only in ``convert -B``, which looks at one file (both tested). After a
    crash only a caller who removes the directory finds it. Raises StepFailed when ``above`` is not behind ``source``.
    """
    with _hold(share, source) as held, workdir.held(target.parent) as place:
        behind = {image.name: image.format for image in held.pinned.images[1:]}
        above = above or next(iter(behind), None)
        if above is None or above not in behind:
            raise StepFailed(f"{source.name} is {held.format} and no layer above {above or 'another file'}")
        _write_apart(held, place, target.name, _Ends(backing, above, behind[above]))


def copy_difference_out(share: Path, source: Source, target: Path, backing: str, above: str) -> None:
    """Like ``copy_layer_out``, for two raw files that stand alone: writes what a reader of ``source`` sees and one of ``above``
    does not."""
    with _hold(share, source) as held, workdir.held(target.parent) as place:
        handle = files.open_regular(share, inspection.plain_name(above))
        try:
            held.pinned.add(above, handle)
            _write_apart(held, place, target.name, _Ends(backing, above, "raw", (handle,)))
        finally:
            os.close(handle)


@dataclass(frozen=True)
class _Ends:
    """What the new layer names as its backing file; and the file that reads the same here: its name, its format, and its
    descriptor unless it is held already."""

    backing: str
    above: str
    format: str
    descriptors: tuple[int, ...] = ()


def _write_apart(held: _Held, place: Path, name: str, ends: _Ends) -> None:
    apart = f"{name}.apart"
    inspection.plain_name(ends.backing)
    _renew(place, apart)
    with _removed_after_an_error(place, apart):
        _tell_apart(held, place, apart, ends)
        held.pinned.confirm()
    _renew(place, name)
    with files.made_durable(place, name):
        run(command("create", ["qcow2"], ["-o", f"{_CLUSTERS},{_ZSTD}", name, str(held.size)]), cwd=place, limits=limits(1))
        both = [image_command.above_nothing(each, held.size) for each in (apart, name)]
        words = command("fill above", ["qcow2"] * 3, ["-c", "-B", ends.backing, *both])
        run(words, cwd=place, limits=limits(1, size=held.size))
        qemu_img.repoint(place, name, ends.backing, "qcow2")
    files.unlink(place, apart)
    _expect(place, Image(name, "qcow2", held.size, ends.backing, "qcow2"))


def _tell_apart(held: _Held, place: Path, apart: str, ends: _Ends) -> None:
    """Makes ``apart`` an overlay on nothing that holds the clusters in which the source differs from ``ends.above``."""
    top = held.pinned.images[0]
    arguments = ["-o", _CLUSTERS, "-b", top.name, apart, str(held.size)]
    run(command("overlay", ["qcow2", top.format], arguments), cwd=place, limits=limits(1))
    handle = files.open_regular(place, apart)
    try:
        held.pinned.add(_APART, handle)
        # Both chains are open at once. Nobody trusts ``apart`` after a crash, so it is not synced.
        both = replace(held, depth=2 * held.depth)
        words = command("tell apart", ["qcow2", ends.format], ["-b", ends.above, held.pinned.below(_APART)])
        there = Place(held.pinned.directory, (*held.pinned.descriptors, *ends.descriptors, handle))
        run(words, cwd=there, limits=both.limits(held.size))
    finally:
        os.close(handle)
    # Its header no longer names its source: from here on only the clusters it holds are read.
    run(command("detach", ["qcow2"], [apart]), cwd=place, limits=limits(1))


def _renew(directory: Path, name: str) -> None:
    files.unlink(directory, name)
    files.create_empty(directory, name)
    files.sync_directory(directory)


def _expect(directory: Path, image: Image) -> None:
    found = qcow2.read_as(directory, image.name, image.format)
    if found != image:
        raise StepFailed(f"qemu-img made {found} where {image} was asked for")

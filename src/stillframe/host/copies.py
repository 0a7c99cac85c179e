"""Copies of what a reader of a chain sees: into new files on the share, out of it for images and backups, and back in.

qemu-img never syncs what it converts (finding 7, qemu 7.2): every file made here is fsynced here.

A copy on the share is compared with its source while the disk writes it out, so that the comparison costs next to nothing.
Writing out earlier, while the source is read, made a copy with a cold cache slower by a fifth: the disk does one thing at a
time. ``-t none`` and ``-W`` brought nothing; reflinks and ``-C`` on XFS a tenth of the time. The figures are in
``docs/reference/bench-offline.md``.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from stillframe.chain.image import Image
from stillframe.errors import StepFailed
from stillframe.host import files, image_command, inspection, publish, qcow2, qemu_img
from stillframe.host.image_command import command, limits
from stillframe.host.run import Limits, attempt, failure, run

_ZSTD = "compression_type=zstd"
_CLUSTERS = f"cluster_size={64 << 10}"  # those of a full backup; what differs is rounded up to them


@dataclass(frozen=True)
class Source:
    """What is read through its chain of ``depth`` files at most. ``directory`` None means the share itself.

    ``confirm`` is called before a copy gets its name, and raises when the source turned out not to be what it should be.
    """

    name: str
    format: str
    depth: int
    directory: Path | None = None
    confirm: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class _Opened:
    """A source that was looked at: how qemu-img is to name it, its files nearest first."""

    path: str
    images: tuple[Image, ...]
    depth: int

    @property
    def format(self) -> str:
        return self.images[0].format

    @property
    def size(self) -> int:
        """QEMU counts in sectors: a raw file's last one is filled up with zeros."""
        return (self.images[0].size + 511) // 512 * 512

    def limits(self, size: int | None = None) -> Limits:
        return limits(self.depth + 1, size=size)


def _open(share: Path, source: Source) -> _Opened:
    images = inspection.chain_of(source.directory or share, source.name, source.format)
    path = source.name if source.directory is None else str(source.directory.absolute() / source.name)
    return _Opened(path, images, max(source.depth, len(images)))


def publish_copy(share: Path, source: Source, image: Image, token: str, volume_id: str) -> None:
    """Publishes a full copy of ``source`` as ``image``: qcow2 or raw, of the same size or larger (the rest is zeros).

    With ``image.backing`` the new file is an overlay on it that holds the whole content itself: nothing is read from the
    backing file, now or later. May be repeated with the same token. Raises StepFailed when the source is larger than
    ``image.size`` or the copy does not compare equal, and what ``source.confirm`` raises.
    """
    opened = _open(share, source)
    if image.size < opened.size:
        raise StepFailed(f"{source.name} has {opened.size} bytes and does not fit into the {image.size} of {image.name}")
    temporary = publish.begin(share, image, token, volume_id)
    if temporary is None:
        return
    with files.made_durable(share, temporary) as begin_sync, ThreadPoolExecutor(1, "confirm") as helper:
        shared = _share_blocks(share, source, temporary)
        # One file, the same format, nothing behind or below it: then what the kernel shared is the whole copy.
        whole = shared and len(opened.images) == 1 and image.backing is None and image.format == source.format
        if not whole:
            _copy(share, opened, image, temporary, offload=shared)
        begin_sync()  # the disk writes while one processor compares and another one confirms
        confirmed = helper.submit(source.confirm)
        if not whole:
            _verify(share, source, Source(temporary, image.format, source.depth))
        confirmed.result()
    qemu_img.grow(share, temporary, image.format, image.size)
    qemu_img.check(share, temporary, image.format)
    publish.finish(share, temporary, image)


def _share_blocks(share: Path, source: Source, temporary: str) -> bool:
    """Makes ``temporary`` a reflink of the source's own file; False where the file system cannot, or a guest writes it."""
    directory = source.directory or share
    return not files.is_written(directory, source.name) and files.reflink(directory, source.name, share / temporary)


def _copy(share: Path, opened: _Opened, image: Image, temporary: str, offload: bool) -> None:
    """``offload`` lets the file system copy (-C): where it shares blocks that takes a tenth of the time. It does not look
    for zeros in the content, so elsewhere, where it takes as long as any copy, it is not used."""
    options = ["-C"] if offload else []
    if image.backing is None or image.backing_format is None:
        words = command("convert", [opened.format, image.format], [*options, opened.path, temporary])
        run(words, cwd=share, limits=opened.limits(opened.size))
        return
    # Of the source's size: convert leaves a tail as it is, resize fills it with zeros where the backing file is longer.
    run(command("create", [image.format], [temporary, str(opened.size)]), cwd=share, limits=limits(1))
    target = image_command.above_nothing(temporary, opened.size)
    words = command("fill", [opened.format, image.format], [*options, opened.path, target])
    run(words, cwd=share, limits=opened.limits(opened.size))
    qemu_img.repoint(share, temporary, image.backing, image.backing_format)


def _verify(share: Path, source: Source, copy: Source) -> None:
    if not compare(share, source, copy):
        files.remove(share, copy.name)
        raise StepFailed(f"the copy of {source.name} differs from it")


def compare(share: Path, a: Source, b: Source) -> bool:
    """Tells whether both read the same; where one is longer, whether its rest is zeros."""
    one, other = _open(share, a), _open(share, b)
    words = command("compare", [one.format, other.format], [one.path, other.path])
    outcome = attempt(words, cwd=share, limits=limits(one.depth + other.depth))
    if outcome.code not in (0, 1):
        raise failure(words, outcome)
    return outcome.code == 0


def copy_out(source: Source, share: Path, target: Path, format_: str, compress: bool) -> None:
    """Writes what a reader of ``source`` sees into the one file ``target`` outside the share, which is replaced.

    ``compress`` needs qcow2 and uses zstd. The file and its name are durable afterwards; a crash leaves a file that must
    not be believed, so the caller gives it its real name later.
    """
    if compress and format_ != "qcow2":
        raise StepFailed(f"a {format_} file cannot be compressed")
    opened = _open(share, source)
    options = ["-c", "-o", _ZSTD] if compress else []
    _renew(target)
    with files.made_durable(target.parent, target.name):
        words = command("convert", [opened.format, format_], [*options, opened.path, str(target.absolute())])
        run(words, cwd=share, limits=opened.limits(opened.size))
    _expect(target.parent, Image(target.name, format_, opened.size))


def copy_layer_out(share: Path, source: Source, target: Path, backing: str, above: str | None = None) -> None:
    """Writes what a reader of ``source`` sees and one of ``above`` does not into ``target``, once, compressed with zstd.

    ``above`` is a file behind ``source``, the nearest one by default. ``target``, which is replaced, is a qcow2 overlay that
    names ``backing``, a qcow2 file beside it that need not be there now and reads as ``above`` does. What both see alike is
    not stored, and is not even read where no file between them holds it. What became zero is a zero cluster, which hides
    older data; behind the end of ``above`` everything is zero already.

    Beside ``target`` lies, on the way, an overlay of the same content that is not compressed: QEMU 7.2 compares only in
    ``rebase``, which cannot compress, and compresses only in ``convert -B``, which looks at one file (both tested). Nobody
    finds it after a crash but who removes the directory. Raises StepFailed when ``above`` is not behind ``source``.
    """
    opened = _open(share, source)
    nearest = opened.images[1].name if len(opened.images) > 1 else None
    behind = {image.name: image.format for image in opened.images[1:]}
    above = above or nearest
    if above is None or above not in behind:
        raise StepFailed(f"{source.name} is {opened.format} and no layer above {above or 'another file'}")
    inspection.plain_name(backing)
    apart = str(target.absolute()) + ".apart"
    _renew(Path(apart))
    _tell_apart(share, opened, str((source.directory or share).absolute() / above), behind[above], apart)
    _renew(target)
    path = str(target.absolute())
    with files.made_durable(target.parent, target.name):
        arguments = ["-o", f"{_CLUSTERS},{_ZSTD}", path, str(opened.size)]
        run(command("create", ["qcow2"], arguments), cwd=share, limits=limits(1))
        ends = [image_command.above_nothing(each, opened.size) for each in (apart, path)]
        run(command("fill above", ["qcow2"] * 3, ["-c", "-B", backing, *ends]), cwd=share, limits=limits(1, size=opened.size))
        qemu_img.repoint(target.parent, target.name, backing, "qcow2")
    files.remove(target.parent, Path(apart).name)
    _expect(target.parent, Image(target.name, "qcow2", opened.size, backing, "qcow2"))


def _tell_apart(share: Path, opened: _Opened, above: str, above_format: str, apart: str) -> None:
    """Makes ``apart`` an overlay on nothing that holds the clusters in which the source differs from ``above``."""
    top = str((share / opened.path).absolute())
    arguments = ["-o", _CLUSTERS, "-b", top, apart, str(opened.size)]
    run(command("overlay", ["qcow2", opened.format], arguments), cwd=share, limits=limits(1))
    # Both chains are open at once. Nothing of ``apart`` is believed after a crash, so nothing of it is synced.
    both = replace(opened, depth=2 * opened.depth)
    words = command("tell apart", ["qcow2", above_format], ["-b", above, apart])
    run(words, cwd=share, limits=both.limits(opened.size))
    # Its source is gone from its header: from here on only the clusters it holds are read.
    run(command("detach", ["qcow2"], [apart]), cwd=share, limits=limits(1))


def copy_in(source: Source, share: Path, temporary: str, format_: str) -> None:
    """Converts a file from outside, its chain beside it, into the one file ``temporary`` on the share, which is replaced.

    The source was looked at by the caller (``imports.inspect_import``) and is looked at again here. ``temporary`` is
    durable afterwards and gets its name by ``publish.publish_as``.
    """
    opened = _open(share, replace(source, directory=source.directory or share))
    inspection.plain_name(temporary)
    _renew(share / temporary)
    with files.made_durable(share, temporary):
        words = command("convert", [opened.format, format_], [opened.path, temporary])
        run(words, cwd=share, limits=opened.limits(opened.size))
    _expect(share, Image(temporary, format_, opened.size))


def _renew(target: Path) -> None:
    files.remove(target.parent, target.name)
    files.create_empty(target.parent, target.name)
    files.sync_directory(target.parent)


def _expect(directory: Path, image: Image) -> None:
    found = qcow2.read_as(directory, image.name, image.format)
    if found != image:
        raise StepFailed(f"qemu-img made {found} where {image} was asked for")

"""qemu-img, one function per verb. No call exists here without explicit formats (I6)."""

from pathlib import Path

from stillframe.chain.image import Chain, Image
from stillframe.chain.names import check_belongs, temporary_name
from stillframe.errors import BadImage, HostCommandFailed, StepFailed
from stillframe.host import files, qcow2
from stillframe.host.run import Limits, run

_COPY = Limits(seconds=24 * 3600, cpu_seconds=12 * 3600)


def _chain_limits(depth: int, base: Limits | None = None) -> Limits:
    """Honest chains need more address space than one layer: 64 MiB a layer (finding 12, qemu 7.2)."""
    chosen = base or Limits()
    return Limits(chosen.seconds, chosen.cpu_seconds, (1 << 30) + (64 << 20) * depth)


def publish_base(share: Path, image: Image, token: str, volume_id: str) -> None:
    """Makes a new empty qcow2 file and gives it its name when it is durable and verified."""
    temporary = temporary_name(volume_id, token)
    files.remove(share, temporary)
    if files.exists(share, image.name):
        _adopt(share, image)
        return
    run(["qemu-img", "create", "-q", "-f", "qcow2", temporary, str(image.size)], cwd=share)
    _publish_verified(share, temporary, image)


def publish_overlay(share: Path, image: Image, token: str, volume_id: str) -> None:
    """Makes an empty overlay on ``image.backing`` and gives it its name when it is durable and verified.

    A killed ``create`` can leave a file that passes check and has no backing file (finding 6, qemu 7.2), so the
    header is read back before the name exists. Repeating it is safe: an equal, empty overlay of that name is kept.
    """
    if image.backing is None or image.backing_format is None:
        raise BadImage(f"{image.name} is no overlay")
    temporary = temporary_name(volume_id, token)
    files.remove(share, temporary)  # also the second name a crash between link and unlink leaves
    if files.exists(share, image.name):
        _adopt(share, image)
        return
    # -u: the backing file is in use by the guest and its size is given; QEMU need not open it.
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", image.backing, "-F", image.backing_format]
    run([*command, temporary, str(image.size)], cwd=share)
    _publish_verified(share, temporary, image)


def _adopt(share: Path, image: Image) -> None:
    found = qcow2.read(share, image.name)
    if found != image:
        raise StepFailed(f"{image.name} exists already and is another file: {found}")
    files.sync_file(share, image.name)
    files.sync_directory(share)


def _publish_verified(share: Path, temporary: str, image: Image) -> None:
    found = qcow2.read(share, temporary)
    made = Image(image.name, found.format, found.size, found.backing, found.backing_format)
    if made != image:
        files.remove(share, temporary)
        raise StepFailed(f"qemu-img made {made} where {image} was asked for")
    files.share_mode(share, temporary)
    files.publish(share, temporary, image.name)


def read_chain(share: Path, volume_id: str, active: str) -> Chain:
    """Reads the headers from the active file down to the base. Raises BadImage, ShareUnavailable, FileNotFoundError."""
    images: list[Image] = []
    name: str | None = check_belongs(active, volume_id)
    while name is not None:
        if len(images) > 200 or any(image.name == name for image in images):
            raise BadImage(f"the backing chain of volume {volume_id} does not end")
        image = qcow2.read(share, check_belongs(name, volume_id))
        images.append(image)
        name = image.backing
    return Chain(volume_id, tuple(reversed(images)))


def check(share: Path, name: str, format_: str) -> None:
    """Raises BadImage when ``qemu-img check`` finds corruption. Leaks are no corruption (exit 3)."""
    try:
        run(["qemu-img", "check", "-q", "-f", format_, name], cwd=share, limits=_chain_limits(200))
    except HostCommandFailed as error:
        if "ended with 3:" not in error.message:
            raise BadImage(f"{name} is damaged: {error.message}") from error


def repair_leaks(share: Path, name: str, format_: str) -> None:
    """Gives back clusters that an interrupted commit left unused in its base (finding 8)."""
    run(["qemu-img", "check", "-q", "-f", format_, "-r", "leaks", name], cwd=share, limits=_chain_limits(200))


def commit(share: Path, top: str, depth: int) -> None:
    """Copies ``top`` down into its backing file and makes that durable; ``top`` keeps its content (``-d``).

    Safe to repeat after a kill at any point (4.1, qemu 7.2: 51 power states).
    """
    image = qcow2.read(share, top)
    if image.backing is None:
        raise StepFailed(f"{top} has no backing file to commit into")
    run(["qemu-img", "commit", "-q", "-d", "-f", "qcow2", top], cwd=share, limits=_chain_limits(depth, _COPY))
    files.sync_file(share, image.backing)


def convert_to_raw(share: Path, name: str, target: Path, depth: int) -> None:
    """Copies what a reader of the chain below ``name`` sees into a raw file."""
    run(
        ["qemu-img", "convert", "-q", "-f", "qcow2", "-O", "raw", "-t", "none", name, str(target)],
        cwd=share,
        limits=_chain_limits(depth, _COPY),
    )


def version() -> str:
    """Returns qemu-img's version line."""
    return run(["qemu-img", "--version"], cwd=Path("/")).splitlines()[0]


def backing_of(share: Path, name: str) -> str | None:
    """Returns what a file names as its backing file; None for none, for a file that is gone and for no image of ours."""
    try:
        return qcow2.read(share, name).backing
    except (BadImage, FileNotFoundError):
        return None

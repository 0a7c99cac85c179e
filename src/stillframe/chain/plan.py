"""From an observed chain and a request to a tuple of steps, or to a conflict that explains itself."""

from stillframe.chain import names
from stillframe.chain.image import Chain, check
from stillframe.chain.steps import Commit, CreateOverlay, SetActive, Step, Trash
from stillframe.errors import Conflict


def snapshot(chain: Chain, snapshot_id: str, max_depth: int) -> tuple[Step, ...]:
    """A new overlay on the active file. Raises Conflict when the chain is as deep as it may become."""
    check(chain)
    if chain.depth >= max_depth:
        raise Conflict(
            f"volume {chain.volume_id} has {chain.depth} files in its chain, the most allowed is {max_depth};"
            " delete a snapshot first",
            volume_id=chain.volume_id,
            depth=chain.depth,
        )
    overlay = names.check_belongs(names.overlay_name(chain.volume_id, snapshot_id), chain.volume_id)
    if overlay in {image.name for image in chain.images}:
        raise Conflict(f"volume {chain.volume_id} has a snapshot {snapshot_id} already", volume_id=chain.volume_id)
    active = chain.active
    return (CreateOverlay(overlay, active.name, active.format, active.size), SetActive(overlay))


def delete_newest(chain: Chain, overlay: str, allocated: int) -> tuple[Step, ...]:
    """Commits the newest snapshot's overlay down into its backing file, which becomes the active file.

    ``allocated`` is what the overlay holds, in bytes. Raises Conflict when ``overlay`` is not the active file.
    """
    check(chain)
    if chain.active.name != overlay or chain.active.backing is None:
        raise Conflict(
            f"only the newest snapshot of volume {chain.volume_id} can be deleted;"
            f" its active file is {chain.active.name}, the snapshot's is {overlay}",
            volume_id=chain.volume_id,
        )
    base = chain.active.backing
    return (Commit(overlay, base, allocated), SetActive(base), Trash(overlay))

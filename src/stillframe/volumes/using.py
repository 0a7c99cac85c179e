"""Who uses a file of a share: asked before it is taken over, given up or gets another name, and by the list of what may be."""

from collections.abc import Mapping, Sequence

from stillframe.errors import FileInUse
from stillframe.volumes.drivers.contract import Share
from stillframe.volumes.world import World

Described = Mapping[str, Sequence[str]]  # file -> servers whose descriptions name it


def described(world: World, share: Share) -> Described:
    """Raises ServiceUnavailable: who cannot ask compute does not know."""
    return world.compute.named_files(share.path)


def users(share: Share, name: str, named: Described) -> list[str]:
    """Returns in words who uses the file: programs, files based on it, servers. Raises BadImage, ShareUnavailable."""
    servers = [f"the description of server {each} names it" for each in named.get(name, ())]
    return [*share.users(name), *servers]


def refuse_if_used(world: World, share: Share, name: str, verb: str) -> None:
    """``verb`` says what was to be done, such as "taken over". Raises FileInUse naming every user, ServiceUnavailable."""
    refuse_users(share, name, described(world, share), verb)


def refuse_users(share: Share, name: str, named: Described, verb: str) -> None:
    """As ``refuse_if_used``, for who has asked compute already. Raises FileInUse."""
    found = users(share, name, named)
    if found:
        raise FileInUse(f"{name} cannot be {verb}: {'; '.join(found[:10])}", users=found[:100])


def refuse_foreign_readers(share: Share, volume_id: str) -> None:
    """Raises FileInUse when a file that is no volume's is based on one of the volume's: it would not open any more, or read
    something else, once that is merged, renamed or removed."""
    found = [f"{other} is based on {name}" for name, above in share.foreign_readers(volume_id).items() for other in above]
    if found:
        raise FileInUse(f"volume {volume_id} cannot be changed: {'; '.join(found[:10])}", users=found[:100])

"""Who uses a file of a share: asked before it is taken over, given up or gets another name, and by the list of what may be."""

from collections.abc import Collection, Mapping, Sequence

from stillframe.db import volumes
from stillframe.errors import FileInUse
from stillframe.volumes.drivers.contract import Share
from stillframe.volumes.world import World

Described = Mapping[str, Sequence[str]]  # file -> servers whose descriptions name it


def described(world: World, share: Share) -> Described:
    """Raises ServiceUnavailable: who cannot ask compute does not know."""
    return world.compute.named_files(share.path)


def users(share: Share, wanted: Collection[str], named: Described) -> Mapping[str, list[str]]:
    """Returns in words who uses each of these files: programs, files based on it, servers; a file that nobody uses is left
    out. The share is looked through once. Raises ShareUnavailable."""
    found = share.users(wanted)
    servers = {name: [f"the description of server {each} names it" for each in named.get(name, ())] for name in wanted}
    return {name: words for name in wanted if (words := [*found.get(name, ()), *servers[name]])}


def refuse_if_used(world: World, share: Share, name: str, verb: str) -> None:
    """``verb`` says what was to be done, such as "taken over". Raises FileInUse naming every user, ServiceUnavailable."""
    refuse_users(name, users(share, [name], described(world, share)), verb)


def refuse_users(name: str, used: Mapping[str, Sequence[str]], verb: str) -> None:
    """As ``refuse_if_used``, for who has asked for the ``users`` already. Raises FileInUse."""
    found = used.get(name)
    if found:
        raise FileInUse(f"{name} cannot be {verb}: {'; '.join(found[:10])}", users=found[:100])


def refuse_foreign_readers(world: World, share: Share, volume_id: str) -> None:
    """Raises FileInUse when a file that is of no volume we have is based on one of the volume's: it would not open any more,
    or read something else, once that is merged, renamed or removed."""
    with world.database.read() as connection:
        known = volumes.ids(connection)
    readers = share.foreign_readers(volume_id, known)
    found = [f"{other} is based on {name}" for name, above in readers.items() for other in above]
    if found:
        raise FileInUse(f"volume {volume_id} cannot be changed: {'; '.join(found[:10])}", users=found[:100])

"""Who uses a file of a share, or a volume: asked before it is managed, changed, unmanaged or released, and by the list of
manageable files."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from stillframe.db import volumes
from stillframe.db.rows import VolumeRow
from stillframe.errors import Conflict, FileInUse
from stillframe.host import users as users_of_files
from stillframe.volumes.storage.drivers.contract import Share
from stillframe.volumes.worker.context import WorkerContext

Described = Mapping[str, Sequence[str]]  # file -> servers whose descriptions name it


def described(worker: WorkerContext, share: Share) -> Described:
    """For files that may belong to anybody: a saved state that cannot be read may need any of them. Raises ServiceUnavailable
    when compute cannot be asked."""
    return worker.compute.named_files(share.path, sure=True)


def users(share: Share, wanted: Collection[str], named: Described) -> Mapping[str, list[str]]:
    """Returns in words who uses each of these files: programs, files based on it, servers; a file that nobody uses is left
    out. The share is looked through once. Raises ShareUnavailable."""
    found = share.users(wanted)
    servers = {name: [f"the description of server {each} names it" for each in named.get(name, ())] for name in wanted}
    return {name: words for name in wanted if (words := [*found.get(name, ()), *servers[name]])}


def refuse_if_used(worker: WorkerContext, share: Share, name: str, verb: str) -> None:
    """``verb`` says what was requested, such as "taken over". Raises FileInUse naming every user, ServiceUnavailable."""
    refuse_users(name, users(share, [name], described(worker, share)), verb)


def refuse_users(name: str, used: Mapping[str, Sequence[str]], verb: str) -> None:
    """As ``refuse_if_used``, when the ``users`` are known already. Raises FileInUse."""
    found = used.get(name)
    if found:
        raise FileInUse(f"{name} cannot be {verb}: {'; '.join(found[:10])}", users=found[:100])


def users_of_volume(worker: WorkerContext, volume: VolumeRow) -> list[str]:
    """Says in words who uses a file of the volume: descriptions of servers, live, inactive and saved, locks of QEMU on any
    host, open files of programs on this one. Raises ServiceUnavailable, ShareUnavailable when that is not known."""
    found = [_described(each) for each in worker.compute.users_of(volume["id"])]
    share = worker.share(volume)
    own = share.files(volume["id"])
    open_here = opened(share.path, own)
    found += [f"{who}, which has {name} open" for name in sorted(open_here) for who in open_here[name]]
    found += [f"a program that holds a lock on {name}" for name in share.in_use(volume["id"]) if name not in open_here]
    return found


def _described(user: Mapping[str, str]) -> str:
    if user["where"] == "attaching":
        return f"server {user['server_id']}, which it is being attached to"
    return f"the {user['where']} description of server {user['server_id']} ({user['name']})"


def opened(directory: Path, own: Sequence[str]) -> dict[str, list[str]]:
    """Returns, for each of the files that a program of this host has open, which programs do."""
    wanted = {identity: name for name in own if (identity := users_of_files.identity(directory / name)) is not None}
    return {wanted[identity]: found for identity, found in users_of_files.programs(wanted).items() if found}


def naming(worker: WorkerContext, share: Share, volume_id: str) -> list[str]:
    """Returns the servers any of whose descriptions, live, inactive or saved, names a file of the volume. A saved state that
    cannot be read is left out: what it needs is attached to its server, and is released only when it can be read. Raises
    ServiceUnavailable when compute cannot be asked."""
    named = worker.compute.named_files(share.path)
    return sorted({server for name in share.files(volume_id) for server in named.get(name, ())})


def named_by(volume_id: str, servers: Sequence[str]) -> str:
    """Says why the files of a volume that counts as available are left alone, and what to do."""
    return (
        f"volume {volume_id} is named by a description, live, inactive or saved, of server {', '.join(servers)} and it uses"
        " its files as they are; detach it from there (a saved server is restored first)"
    )


def refuse_if_named(worker: WorkerContext, share: Share, volume_id: str) -> None:
    """Raises Conflict when a server uses a file of an unattached volume: a snapshot makes another file the active one, and what
    that server writes would go into the snapshot. Raises ServiceUnavailable."""
    servers = naming(worker, share, volume_id)
    if servers:
        raise Conflict(named_by(volume_id, servers), servers=servers)


def refuse_foreign_readers(worker: WorkerContext, share: Share, volume_id: str) -> None:
    """Raises FileInUse when a file that is of no volume we have is based on one of the volume's: it would not open any more,
    or read something else, once that is merged, renamed or removed."""
    with worker.database.read() as connection:
        known = volumes.ids(connection)
    readers = share.foreign_readers(volume_id, known)
    found = [f"{other} is based on {name}" for name, above in readers.items() for other in above]
    if found:
        raise FileInUse(f"volume {volume_id} cannot be changed: {'; '.join(found[:10])}", users=found[:100])

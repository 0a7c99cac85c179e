"""The state directory: locks, credentials and the database, all created on first use."""

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from stillframe import trust
from stillframe.client import CLOUD
from stillframe.config import Settings
from stillframe.db import migrations, volume_types
from stillframe.db.engine import Database
from stillframe.errors import AlreadyRunning, BadConfiguration
from stillframe.main import endpoints
from stillframe.service_client import credentials
from stillframe.web.auth import write_users

PARTS = ("api-volumes", "api-compute", "worker-volumes", "worker-compute")
SHARED = ("share", "backups", "mnt")  # others may have rights there, so what works there trusts nobody
_NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "fuse.glusterfs", "cifs")


class Locks:
    """The parts that this process runs over a state directory; held until it ends."""

    def __init__(self, state_dir: Path, parts: Sequence[str]) -> None:
        """Raises AlreadyRunning, which names the process that already runs one of the parts."""
        self._handles: list[int] = []
        directory = state_dir / "locks"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in parts:
            handle = os.open(directory / part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                pid = os.pread(handle, 32, 0).decode().strip() or "unknown"
                raise AlreadyRunning(f"{part} over {state_dir} is already run by process {pid}") from error
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            self._handles.append(handle)


def secure(settings: Settings) -> Path:
    """Creates the state directory. Raises BadConfiguration for one that somebody else may have prepared. What this process
    creates from here on is for its user alone."""
    os.umask(0o077)
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    trust.require_way(settings.state_dir, "state_dir")
    trust.require_contents(settings.state_dir, "state_dir", but=SHARED)
    for directory in ("locks", "freeze"):
        if (settings.state_dir / directory).is_dir():
            trust.require_contents(settings.state_dir / directory, "state_dir")
    return settings.state_dir


def prepare(settings: Settings, alone: bool = True) -> Database:
    """Creates what is missing in the state directory and opens the database.

    The tables are upgraded only when no other process uses them: when ``alone``, and the database is the file in the state
    directory. Raises SchemaMismatch when they are of another release.
    """
    secure(settings)
    _refuse_network_file_system(settings)
    with _alone(settings):
        _write_users(settings)
        _close_to_others(settings)
        database = Database(settings.database)
        try:
            if alone and settings.is_embedded:
                migrations.upgrade(database)
            migrations.check(database)
        except BaseException:
            database.close()
            raise
        with database.write() as connection:
            volume_types.ensure_default(connection)
    return database


def upgrade(settings: Settings) -> tuple[str | None, str]:
    """Upgrades the database's tables; returns the schema it was at (None: it was empty) and the one it is at now. Raises
    AlreadyRunning when a part runs over the state directory. Services on other hosts notice the upgrade and end."""
    locks = Locks(secure(settings), PARTS)
    _refuse_network_file_system(settings)
    with _alone(settings):
        _close_to_others(settings)
        database = Database(settings.database)
        try:
            before = migrations.current(database)
            migrations.upgrade(database)
        finally:
            database.close()
    del locks
    return before, migrations.newest()


def _close_to_others(settings: Settings) -> None:
    """Closes to other users, too, a database that an earlier version created.

    Its file must not be opened here: closing it would drop every lock that SQLite has on it in this process (fcntl(2)), and the
    next program that opens it would remove the log that we still use. O_PATH opens nothing.
    """
    if not settings.database.startswith("sqlite:///"):
        return
    path = settings.database.removeprefix("sqlite:///").partition("?")[0]
    with suppress(FileNotFoundError):
        handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.chmod(f"/proc/self/fd/{handle}", 0o600)
        finally:
            os.close(handle)


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Parts that start at the same time over one directory create what is missing one after the other."""
    handle = os.open(settings.state_dir / "locks/making", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _refuse_network_file_system(settings: Settings) -> None:
    """SQLite's WAL needs shared memory, which network file systems do not give."""
    if not settings.database.startswith("sqlite"):
        return
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    path = str(settings.state_dir)
    over = [(point, kind) for point, kind in mounts if path == point or path.startswith(point.rstrip("/") + "/")]
    # In a chroot that is not a mount point the kernel lists nothing above us.
    point, kind = max(over, key=lambda found: len(found[0]), default=("/", ""))
    if kind in _NETWORK_FILE_SYSTEMS:
        raise BadConfiguration(f"the database cannot be on {kind} ({point}); choose a local state_dir")


def _write_users(settings: Settings) -> None:
    """Creates a member and an admin for people, and the service user. Passwords are made once."""
    secrets_file = settings.state_dir / credentials.SERVICE_FILE
    if settings.users_file.exists() and secrets_file.exists():
        return
    project = settings.default_project
    people = {name: credentials.new_password() for name in ("member", "admin", "service")}
    roles = {"member": ["member", "reader"], "admin": ["admin", "member", "reader"], "service": ["service"]}
    users = [
        {
            "name": name,
            "password": password,
            "user_id": name,
            "project_id": "service" if name == "service" else project,
            "roles": roles[name],
        }
        for name, password in people.items()
    ]
    # The users first: this function runs again unless both files are there.
    write_users(settings.users_file, users)
    credentials.write_private(
        secrets_file,
        {"username": "service", "password": people["service"], "people": people, "volume": "", "compute": ""},
    )


def announce(settings: Settings, urls: Mapping[str, str]) -> None:
    """Writes where services listen, by "volume" and "compute": for each other, and in clouds.yaml for people. What another part
    wrote about the other service stays."""
    path = settings.state_dir / credentials.SERVICE_FILE
    with _alone(settings):
        known = {**yaml.safe_load(path.read_text()), **urls}
        credentials.write_private(path, known)
        said = {service: known[service] for service in ("volume", "compute") if known[service]}
        credentials.write_private(settings.clouds_file, {"clouds": _clouds(settings, said, known["people"])})


def _clouds(settings: Settings, urls: Mapping[str, str], people: dict[str, str]) -> dict[str, object]:
    trusted = {"cacert": settings.cafile} if settings.cafile else {}
    if settings.auth.strategy == "keystone":
        auth_url = settings.keystone.www_authenticate_uri or settings.keystone.auth_url
        return {CLOUD: {**credentials.keystone_cloud(urls, auth_url), **trusted}}
    names = {CLOUD: "member", f"{CLOUD}-admin": "admin"}
    return {cloud: {**credentials.cloud(urls, name, people[name]), **trusted} for cloud, name in names.items()}


def configured_url(settings: Settings, service: str) -> dict[str, str]:
    """Returns where the service is when its parts run apart: what its own section says. For ``announce``."""
    own = settings.volumes if service == "volumes" else settings.compute
    return {"volume" if service == "volumes" else service: endpoints.url(settings, service, own.port)}

"""The state directory: locks, credentials, the database, all made on first use."""

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
from stillframe.service_client import credentials
from stillframe.web.auth import write_users

PARTS = ("api-volumes", "api-compute", "worker-volumes", "worker-compute")
SHARED = ("share", "backups", "mnt")  # others may have rights there; what is done there trusts nobody
_NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "fuse.glusterfs", "cifs")


class Locks:
    """The parts this process runs over a state directory; held until it ends."""

    def __init__(self, state_dir: Path, parts: Sequence[str]) -> None:
        """Raises AlreadyRunning naming the process that runs one of the parts already."""
        self._handles: list[int] = []
        directory = state_dir / "locks"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in parts:
            handle = os.open(directory / part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                pid = os.pread(handle, 32, 0).decode().strip() or "unknown"
                raise AlreadyRunning(f"{part} over {state_dir} is run by process {pid} already") from error
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            self._handles.append(handle)


def secure(settings: Settings) -> Path:
    """Makes the state directory, or raises BadConfiguration for one that somebody else may have prepared. What this process
    makes from here on is for its user alone."""
    os.umask(0o077)
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    trust.require_way(settings.state_dir, "state_dir")
    trust.require_contents(settings.state_dir, "state_dir", but=SHARED)
    for directory in ("locks", "freeze"):
        if (settings.state_dir / directory).is_dir():
            trust.require_contents(settings.state_dir / directory, "state_dir")
    return settings.state_dir


def prepare(settings: Settings, alone: bool = True) -> Database:
    """Makes what is missing in the state directory and opens the database. Its tables are brought up to date only where no
    other process uses them: ``alone``, and the file in the state directory. Raises SchemaMismatch when they are not."""
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
    """Brings the database's tables up to date; returns the schema it was at (None: it was empty) and the one it is at.

    Raises AlreadyRunning when a part runs over the state directory. Those of other hosts notice, and end.
    """
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
    """A database that an earlier version made is for this user alone, too.

    Its file must not be opened here: closing it again would drop every lock that SQLite has on it in this process
    (fcntl(2)), and the next program that looks at it would take the log away under us. O_PATH opens nothing.
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
    """Parts that start at the same time over one directory make what is missing one after the other."""
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
    # In a chroot that is no mount point the kernel lists nothing above us.
    point, kind = max(over, key=lambda found: len(found[0]), default=("/", ""))
    if kind in _NETWORK_FILE_SYSTEMS:
        raise BadConfiguration(f"the database cannot lie on {kind} ({point}); choose a local state_dir")


def _write_users(settings: Settings) -> None:
    """A member and an admin for people, and the service user; passwords are made once."""
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
    """Writes where services listen, by "volume" and "compute": for each other, and clouds.yaml for people. What another part
    has said of the other service stays."""
    path = settings.state_dir / credentials.SERVICE_FILE
    with _alone(settings):
        known = {**yaml.safe_load(path.read_text()), **urls}
        credentials.write_private(path, known)
        said = {service: known[service] for service in ("volume", "compute") if known[service]}
        credentials.write_private(settings.clouds_file, {"clouds": _clouds(settings, said, known["people"])})


def _clouds(settings: Settings, urls: Mapping[str, str], people: dict[str, str]) -> dict[str, object]:
    if settings.auth.strategy == "keystone":
        auth_url = settings.keystone.www_authenticate_uri or settings.keystone.auth_url
        return {CLOUD: credentials.keystone_cloud(urls, auth_url)}
    names = {CLOUD: "member", f"{CLOUD}-admin": "admin"}
    return {cloud: credentials.cloud(urls, name, people[name]) for cloud, name in names.items()}


def configured_url(settings: Settings, service: str) -> dict[str, str]:
    """Where the service is when its parts run apart: as its own section says. For ``announce``."""
    if service == "volumes":
        return {"volume": f"http://{settings.volumes.listen}:{settings.volumes.port}/v3"}
    return {"compute": f"http://{settings.compute.listen}:{settings.compute.port}/v2.1"}

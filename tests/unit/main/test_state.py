"""The state directory on first use and afterwards."""

import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import yaml
from sqlalchemy import inspect

from stillframe.config import Settings
from stillframe.db import volume_types
from stillframe.db.engine import Database
from stillframe.db.tables import metadata
from stillframe.errors import AlreadyRunning, BadConfiguration
from stillframe.main import state
from stillframe.service_client import credentials
from stillframe.web.auth import BasicAuth
from tests.unit.builders import settings
from tests.unit.web.test_auth import header


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    real = bcrypt.gensalt
    monkeypatch.setattr(bcrypt, "gensalt", lambda _rounds: real(4))


def prepare(configured: Settings) -> Database:
    """As every part starts: its lock first."""
    state.Locks(state.secure(configured), ())
    return state.prepare(configured)


def test_a_part_runs_once_over_a_state_directory(tmp_path: Path) -> None:
    held = state.Locks(tmp_path, ("api-volumes", "worker-volumes"))
    with pytest.raises(AlreadyRunning, match=r"worker-volumes over .* is already run by process \d+"):
        state.Locks(tmp_path, ("worker-volumes",))
    state.Locks(tmp_path, ("worker-compute",))
    state.Locks(tmp_path / "other", ("worker-volumes",))
    assert held is not None


def test_first_use_makes_the_database_and_three_users(tmp_path: Path) -> None:
    configured = settings(tmp_path / "new")
    database = prepare(configured)
    assert set(inspect(database.engine).get_table_names()) >= set(metadata.tables)
    with database.read() as connection:
        assert volume_types.find(connection, "default") is not None
    database.close()
    users = {user["name"]: user for user in yaml.safe_load(configured.users_file.read_text())}
    assert {name: (user["roles"], user["project_id"]) for name, user in users.items()} == {
        "member": (["member", "reader"], "demo"),
        "admin": (["admin", "member", "reader"], "demo"),
        "service": (["service"], "service"),
    }
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    for name in ("users.yaml", credentials.SERVICE_FILE):
        assert stat.S_IMODE((tmp_path / "new" / name).stat().st_mode) == 0o600


def test_a_second_start_keeps_passwords_and_rows(tmp_path: Path) -> None:
    configured = settings(tmp_path)
    prepare(configured).close()
    before = configured.users_file.read_bytes()
    prepare(configured).close()
    assert configured.users_file.read_bytes() == before


def test_the_announced_credentials_work(tmp_path: Path) -> None:
    configured = settings(tmp_path)
    prepare(configured).close()
    state.announce(configured, {"volume": "http://v/v3", "compute": "http://c/v2.1"})
    clouds: dict[str, Any] = yaml.safe_load(configured.clouds_file.read_text())["clouds"]
    checked = BasicAuth(configured.users_file)
    for cloud, roles in (("stillframe", ("member", "reader")), ("stillframe-admin", ("admin", "member", "reader"))):
        entry = clouds[cloud]["auth"]
        assert checked.identify(header(entry["username"], entry["password"]), "req-1").roles == roles
    for service in ("volume", "compute"):
        endpoint = credentials.service_endpoint(configured, service)
        assert checked.identify(header(endpoint.username, endpoint.password), "req-1").is_service
        assert endpoint.url == {"volume": "http://v/v3", "compute": "http://c/v2.1"}[service]
    assert stat.S_IMODE(configured.clouds_file.stat().st_mode) == 0o600


def test_parts_that_run_apart_announce_one_service_each(tmp_path: Path) -> None:
    configured = settings(tmp_path)
    prepare(configured).close()
    state.announce(configured.of("compute"), state.configured_url(configured.of("compute"), "compute"))
    entry = yaml.safe_load(configured.clouds_file.read_text())["clouds"]["stillframe"]
    assert entry["auth"]["endpoint"] == entry["compute_endpoint_override"] == "http://127.0.0.1:8774/v2.1"
    assert "volume_endpoint_override" not in entry
    # Its socket is known before it was ever started.
    early = credentials.service_endpoint(configured.of("compute"), "volume")
    assert (early.url, early.socket) == ("http://localhost/v3", tmp_path / "api-volumes.sock")
    state.announce(configured.of("volumes"), state.configured_url(configured.of("volumes"), "volumes"))
    entry = yaml.safe_load(configured.clouds_file.read_text())["clouds"]["stillframe"]
    assert entry["volume_endpoint_override"] == "http://127.0.0.1:8776/v3"
    assert entry["compute_endpoint_override"] == "http://127.0.0.1:8774/v2.1"


def test_people_are_told_the_certificates_to_trust(tmp_path: Path) -> None:
    configured = replace(settings(tmp_path), cafile="/etc/ssl/ca.pem")
    prepare(configured).close()
    state.announce(configured, {"volume": "https://v/v3", "compute": "https://c/v2.1"})
    clouds = yaml.safe_load(configured.clouds_file.read_text())["clouds"]
    assert {entry["cacert"] for entry in clouds.values()} == {"/etc/ssl/ca.pem"}


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "fuse.glusterfs", "cifs"])
def test_a_network_file_system_is_refused_for_sqlite_and_a_local_one_below_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    mounts = f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path} {kind} rw 0 0\n/dev/sdb {tmp_path}/local xfs rw 0 0\n"
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, *more: mounts if str(path) == "/proc/mounts" else real(path, *more))
    with pytest.raises(BadConfiguration, match=kind.replace(".", r"\.")):
        prepare(settings(tmp_path / "state"))
    prepare(settings(tmp_path / "local" / "state")).close()

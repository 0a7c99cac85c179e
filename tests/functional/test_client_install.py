"""A machine that has the client alone: the wheel with the extras ``client`` and ``osc``, in an environment of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVERS = "alembic bcrypt boto3 cronsim falcon jsonschema libvirt lxml microversion_parse prometheus_client sqlalchemy waitress"
OSLO = "oslo-config oslo-context oslo-log oslo-policy"  # OpenStackClient brings some of them itself
IMPORT_ALL = """
import importlib, pkgutil, sys, stillframe.client
for each in pkgutil.walk_packages(stillframe.client.__path__, "stillframe.client."):
    importlib.import_module(each.name)
rooms = ("volumes", "compute", "journal", "db", "web", "rpc", "host", "main", "service_client", "config", "context")
print(sorted(name for name in sys.modules if name.startswith(tuple(f"stillframe.{room}" for room in rooms))))
"""
PRESENT = """
import importlib.util, sys
print(sorted(name for name in sys.argv[1:] if importlib.util.find_spec(name)))
"""
BROUGHT = """
import importlib.metadata, re, sys
from packaging.requirements import Requirement
found = set()
def walk(name, extras):
    if name in found: return
    found.add(name)
    for each in map(Requirement, importlib.metadata.requires(name) or ()):
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            walk(re.sub("[-_.]+", "-", each.name).lower(), each.extras)
walk("stillframe", sys.argv[1:])
print(*sorted(found))
"""

pytestmark = pytest.mark.timeout(900)  # some fifty packages are unpacked


def run(*command: str | Path, code: int = 0, cwd: Path = ROOT) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "PYTHON"))}
    done = subprocess.run(
        [str(each) for each in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory)
    (found,) = directory.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The directory of the environment's programs. The list of requirements is complete, or the last step asks for an index."""
    place = tmp_path_factory.mktemp("client")
    run(sys.executable, "-m", "venv", "--without-pip", place)
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        place / "bin/python",
        "install",
        "-q",
    ]
    run(*pip, "--no-compile", "--no-deps", "--require-hashes", "-r", "requirements/client.txt")
    run(*pip, "--no-compile", "--no-index", f"stillframe[client,osc] @ {wheel.as_uri()}")
    return place / "bin"


def test_no_library_of_the_servers_is_there(programs: Path, tmp_path: Path) -> None:
    found = run(programs / "python", "-c", PRESENT, *SERVERS.split(), cwd=tmp_path)
    assert found.strip() == "[]"


def test_the_extra_client_brings_openstacksdk_and_neither_openstackclient_nor_anything_of_the_servers(
    programs: Path, tmp_path: Path
) -> None:
    brought = set(run(programs / "python", "-c", BROUGHT, "client", cwd=tmp_path).split())
    assert {"openstacksdk", "cliff", "rich"} <= brought
    assert not brought & {*OSLO.split(), *SERVERS.replace("_", "-").split(), "python-openstackclient"}


def test_every_module_of_the_client_can_be_imported_and_brings_no_server_room(programs: Path, tmp_path: Path) -> None:
    assert run(programs / "python", "-c", IMPORT_ALL, cwd=tmp_path).strip() == "[]"


def test_the_stand_alone_command_works(programs: Path, tmp_path: Path) -> None:
    told = run(programs / "stillframe", "--help", cwd=tmp_path)
    assert "assisted-snapshot create" in told and "Not installed here" in told
    assert "Could not load" not in told and "Traceback" not in told
    assert "--quiesce" in run(programs / "stillframe", "assisted-snapshot", "create", "--help", cwd=tmp_path)
    told = run(programs / "stillframe", "--os-cloud", "nosuch", "snapshot", "show", "x", code=1, cwd=tmp_path)
    assert "nosuch was not found" in told


@pytest.mark.parametrize("command", ["serve", "api compute", "worker volumes", "doctor", "operation list"])
def test_a_command_of_the_servers_says_what_is_missing(programs: Path, tmp_path: Path, command: str) -> None:
    told = run(programs / "stillframe", *command.split(), "--state-dir", tmp_path / "state", code=1, cwd=tmp_path)
    assert "pip install 'stillframe[server]'" in told and "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_openstackclient_has_our_commands(programs: Path, tmp_path: Path) -> None:
    told = run(programs / "openstack", "assisted", "snapshot", "--help", cwd=tmp_path)
    assert "assisted snapshot create" in told
    assert "--quiesce" in run(programs / "openstack", "assisted", "snapshot", "create", "--help", cwd=tmp_path)

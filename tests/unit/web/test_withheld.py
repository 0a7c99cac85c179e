"""No member of a project reads where the host keeps things, whatever says so; who runs the host does."""

import ast
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stillframe import config, errors
from stillframe.db import adopted_disks
from stillframe.db.engine import Database
from stillframe.web.withheld import Withheld
from tests.unit import builders
from tests.unit.builders import SNAPSHOT, VOLUME
from tests.unit.web.shell import SERVICES, Site, fault

SOURCE = Path(__file__).parents[3] / "src/stillframe"
CONFIGURATION = """
[DEFAULT]
enabled_backends = local, second, far, farther
[volumes]
share_dir = /srv/shares/first one
backup_url = file:///srv/store
staging_dir = /var/staging
[compute]
mount_point_base = /var/lib/nova/mnt
[second]
share_dir = /srv/shares/second
[far]
volume_driver = nfs
nfs_mount_point_base = /var/lib/cinder/mnt
[farther]
volume_driver = glusterfs
"""
HASH = "0123456789abcdef0123456789abcdef"
SHARES = ("/srv/shares/first one", "/srv/shares/second", f"/var/lib/cinder/mnt/{HASH}", f"/var/lib/nova/mnt/{HASH}")
ROOMS = ("volumes", "compute", "host", "journal", "web", "rpc", "chain", "service_client", "trust.py")
PATHS = re.compile(r"path|share|directory|place|point|base|root|export|into|folder|staging|store|error$|unavailable|socket")


@pytest.fixture
def withheld(tmp_path: Path) -> Withheld:
    file = tmp_path / "stillframe.conf"
    file.write_text(CONFIGURATION)
    return Withheld(config.load([str(file)], {(None, "state_dir"): str(tmp_path / "state")}))


@pytest.mark.parametrize("share", [*SHARES, "/srv/unknown", "nas1.example.org:/exports/a", "[fe80::1]:/a"])
def test_a_share_is_told_in_words(withheld: Withheld, share: str) -> None:
    assert withheld.text(f"the share {share} does not work: gone") == "the volume's share does not work: gone"
    assert withheld.text(f"a file on the share {share} is open. Next") == "a file on the volume's share is open. Next"
    assert withheld.text(f"the directory {share} is not the share it was") == "the volume's share is not the share it was"


@pytest.mark.parametrize("share", SHARES)
def test_a_file_is_told_by_its_name(withheld: Withheld, share: str) -> None:
    assert withheld.text(f"No such file: '{share}/.share-id'") == "No such file: '.share-id'"
    assert withheld.text(f"{share}/.stillframe is not a directory") == ".stillframe is not a directory"
    assert withheld.text(f"({share})") == "(the volume's share)"


def test_other_directories_are_told_in_words_too(withheld: Withheld, tmp_path: Path) -> None:
    for directory, words in (
        (tmp_path / "state", "a directory of the service"),
        ("/var/staging", "a directory of the service"),
        ("/proc/self/fd/12", "a directory of the service"),
        (f"{tempfile.gettempdir()}/stillframe-pins-abc_1", "a directory of the service"),
        ("/srv/store", "the backup store"),
    ):
        assert withheld.text(f"{directory} has 1 bytes free") == f"{words} has 1 bytes free"
    assert (
        withheld.text(f"cannot connect to {tmp_path}/state/api-volumes.sock: gone")
        == "cannot connect to api-volumes.sock: gone"
    )


@pytest.mark.parametrize(
    "words",
    [
        "the filesystem /var/lib/mysql of the guest was not frozen",
        "volume v (/dev/vda) is raw",
        "http://127.0.0.1:8776/v3/volumes",
        "/srv/shares/secondary and /x/srv/shares/second are not of ours",
        "read and/or written",
    ],
)
def test_what_is_no_directory_of_the_host_stays(withheld: Withheld, words: str) -> None:
    assert withheld.text(words) == words


def test_what_a_client_wrote_is_never_changed(withheld: Withheld) -> None:
    theirs = {"name": SHARES[1], "description": SHARES[1], "metadata": {"error": SHARES[1], "a": SHARES[1]}, "id": SHARES[1]}
    assert withheld.document({"volume": theirs, "volumes": [theirs]}) == {"volume": theirs, "volumes": [theirs]}


def test_what_the_service_says_is_told_in_words_wherever_it_stands(withheld: Withheld) -> None:
    said = f"the share {SHARES[1]} is full"
    answer = {
        "volume": {"fault": said, "size": 1, "name": None},
        "sets": [{"volumes": [{"error": said}], "warnings": [said], "consistency": {"degraded_reason": said}}],
        "policy": {"last_error": said, "failed_sets": [{"fault": said}]},
        "explanation": {"deep": [{"anything": said}]},
    }
    assert SHARES[1] not in repr(withheld.document(answer))
    assert withheld.document(answer)["volume"] == {"fault": "the volume's share is full", "size": 1, "name": None}


def raised() -> Iterator[tuple[str, str]]:
    """Every message that the services' rooms put together, with a share for what may be a path and X for the rest."""
    for room in ROOMS:
        for file in [SOURCE / room] if room.endswith(".py") else sorted((SOURCE / room).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [
                        str(each.value) if isinstance(each, ast.Constant) else _shown(ast.unparse(each.value))  # type: ignore[attr-defined]
                        for each in node.values
                    ]
                    yield f"{file.relative_to(SOURCE)}:{node.lineno}", "".join(parts)


def _shown(expression: str) -> str:
    return SHARES[1] if PATHS.search(expression.lower()) else "X"


def test_every_message_is_told_without_directories(withheld: Withheld) -> None:
    told = [(where, text) for where, text in raised() if " " in text and SHARES[1] in text]
    assert len(told) > 100
    left = [(where, text) for where, text in told if re.search(r"(?<![\w/.~-])/srv/shares", withheld.text(text))]
    assert left == []


@pytest.mark.parametrize("kind", [kind for _, kind in sorted(errors.catalogue().items())])
def test_no_fault_of_any_kind_names_a_directory(database: Database, tmp_path: Path, kind: type[errors.StillframeError]) -> None:
    share = builders.settings(tmp_path).share_dir

    def fails(*_arguments: Any, **_more: Any) -> None:
        raise kind(f"the share {share} does not work: {share}/volume-{VOLUME}: gone", retry_after=1, where=[str(share)])

    site = Site(database, tmp_path, SERVICES["volumes"], {"delete_volume": fails})
    with database.write() as connection:
        builders.volume_row(connection)
    answer = site.ask("DELETE", f"/v3/volumes/{VOLUME}")
    assert str(share) not in answer.text
    if kind.status != errors.InternalError.status:
        assert f"the volume's share does not work: volume-{VOLUME}: gone" in fault(answer)["message"]
        assert f"the share {share} does not work" in fault(site.ask("DELETE", f"/v3/volumes/{VOLUME}", who="admin"))["message"]


def test_no_fault_of_a_row_names_one(database: Database, tmp_path: Path) -> None:
    said = f"the share {builders.settings(tmp_path).share_dir} is full"
    with database.write() as connection:
        builders.volume_row(connection, fault=said)
        builders.snapshot_row(connection, fault=said)
    site = Site(database, tmp_path, SERVICES["volumes"])
    ours = {"Stillframe-Additions": "1"}
    for path in (f"/v3/volumes/{VOLUME}", "/v3/volumes/detail", f"/v3/snapshots/{SNAPSHOT}", "/v3/snapshots/detail"):
        assert '"fault": "the volume\'s share is full"' in site.ask("GET", path, headers=ours).text, path
        assert said in site.ask("GET", path, who="admin", headers=ours).text


def test_the_directory_of_an_adopted_disk_is_told_in_words(database: Database, tmp_path: Path) -> None:
    """No configuration names it. Compute knows it by the server's disk, block storage by the volume."""

    def directories() -> set[str]:
        with database.read() as connection:
            return adopted_disks.directories(connection)

    withheld = Withheld(builders.settings(tmp_path), directories)
    said = "/srv/carol/vms changed while it was looked at, as did /srv/disks/web-1.qcow2; the guest's /srv/disks2 did not"
    assert withheld.text(said) == said
    with database.write() as connection:
        builders.volume_row(connection, share="/srv/carol/vms", base_file="db.img")
        of: Any = {"server_id": builders.SERVER, "target": "vda", "volume_id": VOLUME, "ends_chain": False}
        adopted_disks.put(connection, of | {"file": "/srv/disks/web-1.qcow2"})
    told = "the volume's share changed while it was looked at, as did web-1.qcow2; the guest's /srv/disks2 did not"
    assert withheld.text(said) == told
    names = ("fault", "user_message")
    assert withheld.document([dict.fromkeys(names, said), {"name": said}]) == [dict.fromkeys(names, told), {"name": said}]


@pytest.mark.parametrize("service", ["volumes", "compute"])
def test_a_service_that_runs_alone_knows_its_own_sections_only(tmp_path: Path, service: str) -> None:
    settings = config.load([], {(None, "state_dir"): str(tmp_path / "state")}).of(service)
    told = Withheld(settings).text(f"the share /srv/theirs and {settings.state_dir}/share and {settings.state_dir}/x")
    assert str(tmp_path) not in told
    assert told.startswith("the volume's share and ")

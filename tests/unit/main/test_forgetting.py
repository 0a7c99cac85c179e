"""``volume forget`` removes the rows of a volume whose share is gone, when a person says so and nothing speaks against it."""

import argparse
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.db import attachments, backups, shares, snapshots, volumes
from stillframe.db.engine import Database
from stillframe.db.rows import LinkedFile
from stillframe.errors import BadRequest, Busy, Conflict, HypervisorUnavailable, NotFound
from stillframe.host.probe import Prober
from stillframe.journal import record
from stillframe.journal.record import Request
from stillframe.main import forgetting, guests_seen
from stillframe.volumes.recovery.doctor.seen import DiskSeen, GuestsSeen, ServerSeen
from stillframe.volumes.worker import lookup
from tests.unit import builders
from tests.unit.builders import OTHER_VOLUME, SERVER, SNAPSHOT, VOLUME, new_id
from tests.unit.journal.fakes import intent_of

Command = Callable[..., tuple[int, str]]
NOBODY = GuestsSeen(True, "", listed=True)
NAMED = GuestsSeen(True, "", mentioned=frozenset({f"volume-{VOLUME}.{SNAPSHOT}"}))
HAVING = ServerSeen(SERVER, "web-1", False, [DiskSeen("vdb", None, None, VOLUME)], None)


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """Where the share was; a directory that the services made there anew is another share."""
    return tmp_path / "share"


@pytest.fixture
def lost(database: Database, share: Path) -> str:
    """A volume with a snapshot, an attachment and a backup, beside another one."""
    with database.write() as connection:
        builders.volume_row(connection, share=str(share), size=5, status="in-use")
        builders.volume_row(connection, id=OTHER_VOLUME, share=str(share))
        builders.snapshot_row(connection)
        builders.backup_row(connection)
        attachments.insert(
            connection,
            {
                "id": new_id(),
                "volume_id": VOLUME,
                "instance_id": SERVER,
                "project_id": "demo",
                "status": "attached",
                "mode": "rw",
            },
        )
        shares.remember(connection, str(share), "the share's id")
    return VOLUME


@pytest.fixture
def command(database: Database, share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    settings = builders.settings(tmp_path / "state", {"share_dir": str(share)})
    monkeypatch.setattr(forgetting, "database_of", lambda _parsed: database)
    monkeypatch.setattr(forgetting, "settings_of", lambda _parsed: settings)
    monkeypatch.setattr(Prober, "check", lambda _prober: b"")

    def run(volume: str = VOLUME, seen: GuestsSeen = NOBODY, **given: bool) -> tuple[int, str]:
        monkeypatch.setattr(guests_seen, "look", lambda _settings, _busy, _adopted: seen)
        app: Any = SimpleNamespace(stdout=io.StringIO())
        parsed = argparse.Namespace(**{"volume": volume, "dry_run": False, "yes": True, **given})
        code = forgetting.Forget(app, None).take_action(parsed)
        return code, app.stdout.getvalue()

    return run


def rows(database: Database) -> tuple[bool, bool, int, int]:
    """Whether volume and snapshot are known, how many attachments, and how many backups."""
    with database.read() as connection:
        return (
            volumes.get(connection, VOLUME, None) is not None,
            snapshots.get(connection, SNAPSHOT, None) is not None,
            len(attachments.of_volumes(connection, [VOLUME])[VOLUME]),
            backups.usage(connection, "demo")[0],
        )


def test_rows_and_quota_are_given_back_and_nothing_of_the_share_is_touched(
    database: Database, lost: str, command: Command, share: Path
) -> None:
    code, said = command()
    assert (code, rows(database)) == (0, (False, False, 0, 1))
    assert f"this also removes snapshot {SNAPSHOT}" in said and f"attachment to server {SERVER}" in said
    assert "uses 1 volumes, 1 GiB and 0 snapshots now" in said and "its backups stay" in said
    assert not share.exists()
    with database.read() as connection:
        used = lookup.used(connection, "demo")
    assert (used["volumes"], used["gigabytes"], used["snapshots"], used["backups"]) == (1, 1, 0, 1)


def test_a_dry_run_says_the_same_and_does_nothing(database: Database, lost: str, command: Command) -> None:
    code, said = command(dry_run=True, yes=False)
    assert (code, rows(database)) == (0, (True, True, 1, 1))
    assert f"this also removes snapshot {SNAPSHOT}" in said and "nothing was done" in said and "does not exist" in said


@pytest.mark.parametrize("answer", ["", "n"])
def test_it_asks(database: Database, lost: str, command: Command, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda _question: answer)
    assert command(yes=False)[0] == 1
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(BadRequest, match="--yes"):
        command(yes=False)
    assert rows(database) == (True, True, 1, 1)


@pytest.mark.parametrize("marker", ["the share's id", "another one", None])
def test_only_the_share_that_it_was_keeps_its_volume(
    database: Database, lost: str, command: Command, share: Path, marker: str | None
) -> None:
    share.mkdir()
    if marker is not None:
        (share / ".share-id").write_text(json.dumps({"share_id": marker}))
    before = sorted(share.iterdir())
    if marker == "the share's id":
        with pytest.raises(Conflict, match="answers"):
            command()
    else:
        assert "is not the share that had the volume" in command()[1]
    assert rows(database)[0] is (marker == "the share's id")
    assert sorted(share.iterdir()) == before


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (NAMED, "volume-"),
        (GuestsSeen(True, "", [HAVING], listed=True), "web-1"),
        (GuestsSeen(False, "no libvirt"), "no libvirt"),
    ],
)
def test_what_a_server_may_still_have_is_kept(
    database: Database, lost: str, command: Command, seen: GuestsSeen, told: str
) -> None:
    with pytest.raises((Conflict, HypervisorUnavailable), match=told):
        command(seen=seen)
    assert rows(database) == (True, True, 1, 1)


@pytest.mark.parametrize("resource", [f"volume:{VOLUME}", f"server:{SERVER}"])
def test_what_an_operation_is_at_work_on_is_kept(database: Database, lost: str, command: Command, resource: str) -> None:
    with database.write() as connection:
        record.submit(connection, Request("volumes", "extend_volume", intent_of(volume_id=VOLUME), [], [resource], "r"))
    with pytest.raises(Busy):
        command()
    assert rows(database) == (True, True, 1, 1)


def test_what_linked_volumes_read_goes_after_them(database: Database, lost: str, command: Command) -> None:
    reads: LinkedFile = {"volume_id": VOLUME, "file": f"volume-{VOLUME}", "format": "qcow2"}
    with database.write() as connection:
        volumes.change(connection, OTHER_VOLUME, linked_to=reads)
    with pytest.raises(Conflict, match=OTHER_VOLUME):
        command()
    assert command(OTHER_VOLUME)[0] == 0
    assert command()[0] == 0


def test_what_changed_while_it_asked_is_left_alone(
    database: Database, lost: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(_question: str) -> str:
        with database.write() as connection:
            snapshots.delete(connection, SNAPSHOT)
        return "y"

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", answer)
    with pytest.raises(Busy, match="meanwhile"):
        command(yes=False)
    assert rows(database)[0]
    with pytest.raises(NotFound):
        command(new_id())

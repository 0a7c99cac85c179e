"""Secrets that no server needs are removed, and no others."""

from pathlib import Path

import pytest

from stillframe.compute.libvirt import connector
from stillframe.compute.operations import attachments
from stillframe.compute.periodic import secrets
from stillframe.db.engine import Database
from stillframe.errors import HypervisorUnavailable
from stillframe.host import libvirt_secrets
from stillframe.journal import record
from tests.unit.builders import SERVER, VOLUME, new_id
from tests.unit.compute import fakes

LEFT, USED, FOREIGN = new_id(), new_id(), new_id()
DISK = (
    '<disk type="network"><source protocol="iscsi" name="a/1"><auth username="u">'
    f'<secret type="iscsi" uuid="{USED}"/></auth></source><target dev="vda"/></disk>'
)


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is removed of three secrets: one that no server has, one that a stopped server has, one of another installation."""
    found: list[str] = []
    made = {LEFT: f"stillframe iqn.a {LEFT}", USED: f"stillframe iqn.a {USED}", FOREIGN: f"stillframe iqn.b {FOREIGN}"}
    monkeypatch.setattr(libvirt_secrets, "usages", lambda _: made)
    monkeypatch.setattr(libvirt_secrets, "remove", lambda _, id_: found.append(id_))
    monkeypatch.setattr(connector, "initiator", lambda _: "iqn.a")
    return found


def test_what_no_description_names_is_removed(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: list[str]
) -> None:
    for view in (
        fakes.view(fakes.domain_xml(), fakes.domain_xml(DISK)),
        fakes.view(fakes.domain_xml(DISK), fakes.domain_xml()),
        fakes.saved_view(fakes.domain_xml(), fakes.domain_xml(DISK)),
    ):
        removed.clear()
        secrets.look(fakes.worker(database, tmp_path, [view], monkeypatch))
        assert removed == [LEFT]


def test_while_a_volume_is_being_attached_none_is_removed(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: list[str]
) -> None:
    with database.write() as connection:
        asked = attachments.AttachVolume(server_id=SERVER, volume_id=VOLUME, target="vda")
        record.submit(connection, attachments.request(asked, "r"))
    secrets.look(fakes.worker(database, tmp_path, [], monkeypatch))
    assert removed == []


def test_a_saved_state_that_cannot_be_read_may_need_any(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: list[str]
) -> None:
    view = fakes.saved_view(fakes.domain_xml(), None)
    with pytest.raises(HypervisorUnavailable):
        secrets.look(fakes.worker(database, tmp_path, [view], monkeypatch))
    assert removed == []


def test_where_no_volume_is_in_the_network_nothing_is_asked(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libvirt_secrets, "usages", lambda _: {})
    secrets.look(fakes.worker(database, tmp_path, [fakes.saved_view(fakes.domain_xml(), None)], monkeypatch))
    assert list(tmp_path.glob("initiator*")) == []

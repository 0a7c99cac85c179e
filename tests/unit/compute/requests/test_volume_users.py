"""Which servers have a volume or are about to: live, inactive and saved descriptions, and attachments under way."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from stillframe.compute.libvirt import domain_xml
from stillframe.compute.operations import attachments
from stillframe.compute.operations.attachments import AttachVolume, DetachVolume
from stillframe.compute.requests import volume_users
from stillframe.db.engine import Database
from stillframe.errors import HypervisorUnavailable
from stillframe.host import mounts, reach
from stillframe.journal import record
from tests.unit.builders import OTHER_VOLUME, SERVER, VOLUME, context
from tests.unit.compute import fakes


def test_an_attachment_that_is_under_way_is_a_user(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = fakes.worker(database, tmp_path, [], monkeypatch)
    with database.write() as connection:
        for asked in (
            AttachVolume(server_id=SERVER, volume_id=VOLUME, target="vdb"),
            DetachVolume(server_id=SERVER, volume_id=OTHER_VOLUME),
        ):
            wanted = attachments.request(asked, "req-1")
            record.submit(connection, wanted)
            record.submit(connection, replace(wanted, service="volumes", resources=[f"volume:{asked.volume_id}"]))
    coming = {"server_id": SERVER, "name": "", "where": "attaching"}
    assert volume_users.users_of_volume(worker, context("service"), VOLUME.upper()) == [coming]
    assert volume_users.users_of_volume(worker, context("service"), OTHER_VOLUME) == []
    xml = fakes.domain_xml(fakes.disk_xml("vda", f"/srv/volume-{VOLUME}"))
    worker = fakes.worker(database, tmp_path, [fakes.view(xml, xml)], monkeypatch)
    found = volume_users.users_of_volume(worker, context("service"), VOLUME)
    assert [each["where"] for each in found] == ["attaching", "live", "inactive"]


def test_what_a_server_is_called_makes_it_a_user_of_nothing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nova writes its users' names of servers into the description. Nobody could change a volume whose id another project
    calls its server by."""
    path = f"/srv/volume-{VOLUME}"
    space = 'xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1"'
    named = f"<nova:instance {space}><nova:name>{path}</nova:name></nova:instance>"
    xml = fakes.domain_xml(fakes.disk_xml("vda", "/srv/other"), metadata=named)
    xml = xml.replace("<memory", f"<title>{path}</title><description>{path}</description><memory")
    worker = fakes.worker(database, tmp_path, [fakes.view(xml, xml)], monkeypatch)
    assert volume_users.users_of_volume(worker, context("service"), VOLUME) == []
    assert volume_users.named_files(worker, context("service"), "/srv") == {"other": [SERVER]}
    assert not domain_xml.names_text(xml, path)
    assert domain_xml.names_text(xml, "/srv/other")
    handed = xml.replace(
        "</domain>", f"<qemu:commandline xmlns:qemu='q'><qemu:arg value='{path}'/></qemu:commandline></domain>"
    )
    worker = fakes.worker(database, tmp_path, [fakes.view(handed)], monkeypatch)
    assert len(volume_users.users_of_volume(worker, context("service"), VOLUME)) == 1


@pytest.mark.parametrize("asked", ["volume", "directory"])
def test_a_saved_memory_that_does_not_tell_may_need_every_file(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """A file that only it names would be taken over, renamed or snapshotted under it."""
    xml = fakes.domain_xml(fakes.disk_xml("vda", "/srv/other"))
    worker = fakes.worker(database, tmp_path, [fakes.saved_view(xml, None)], monkeypatch)
    with pytest.raises(HypervisorUnavailable, match="not known which files it needs"):
        if asked == "volume":
            volume_users.users_of_volume(worker, context("service"), VOLUME)
        else:
            volume_users.named_files(worker, context("service"), "/srv", sure=True)
    assert volume_users.named_files(worker, context("service"), "/srv") == {"other": [SERVER]}, (
        "of a volume its attachment tells"
    )
    worker = fakes.worker(database, tmp_path, [fakes.saved_view(xml, xml)], monkeypatch)
    assert volume_users.named_files(worker, context("service"), "/srv") == {"other": [SERVER]}


def test_a_share_that_does_not_answer_holds_up_no_look_at_another(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = tmp_path / "share"
    share.mkdir()
    (share / "one").write_bytes(b"")
    (tmp_path / "link").symlink_to(share / "one")
    xml = fakes.domain_xml(fakes.disk_xml("vda", str(tmp_path / "link")), fakes.disk_xml("vdb", "/dead/two"))
    worker = fakes.worker(database, tmp_path, [fakes.view(xml, xml)], monkeypatch)
    monkeypatch.setattr(mounts, "network_points", lambda: ["/dead"])
    monkeypatch.setattr(reach, "_answers", lambda _point: False)
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **more: pytest.fail("touched") if "dead" in str(path) else stat(path, **more))
    assert volume_users.named_files(worker, context("service"), str(share)) == {"one": [SERVER]}

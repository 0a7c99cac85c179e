"""Whom volumes are given out to, held against the rows: at each change, and on the timer."""

from pathlib import Path
from typing import Any

import pytest

from stillframe.chain.names import base_name
from stillframe.db import attachments, volumes
from stillframe.errors import BadRequest, Conflict, TargetUnavailable
from stillframe.host.tgt import Target
from stillframe.volumes.requests import attachments as attachment_requests
from stillframe.volumes.requests import force_detach
from stillframe.volumes.requests import volumes as volume_requests
from stillframe.volumes.storage.backends import Pool
from stillframe.volumes.storage.drivers import native
from stillframe.volumes.storage.drivers.targets import Portal, Targets
from stillframe.volumes.worker import exports
from tests.unit.builders import GIB, SERVER, context
from tests.unit.volumes import fakes
from tests.unit.volumes.conftest import NewSite
from tests.unit.volumes.site import Site

INITIATOR = "iqn.1993-08.org.debian:01:abc"
CONNECTOR = {"initiator": INITIATOR}
SERVICE = context("service", project="service")


class Daemon:
    """A target daemon in memory. ``silent``: it does not answer."""

    def __init__(self) -> None:
        self.known: dict[str, Target] = {}
        self.silent = False
        self.made = 0

    def targets(self) -> dict[str, Target]:
        if self.silent:
            raise TargetUnavailable("the iSCSI target daemon does not answer")
        return dict(self.known)

    def export(self, wanted: Any) -> None:
        self.targets()
        self.made += 1
        size = wanted.size // 10**6
        self.known[wanted.name] = Target(1, wanted.name, str(wanted.path), size, (wanted.user,), (wanted.initiator,))

    def withdraw(self, name: str) -> None:
        self.targets()
        self.known.pop(name, None)


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def given(new_site: NewSite, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Site:
    """A site whose one share has native snapshots and gives its volumes out."""
    tmp_path.chmod(0o700)
    monkeypatch.setattr(Pool, "capabilities", property(lambda _pool: native.CAPABILITIES))
    site = new_site()
    fakes.memory(site.worker).capabilities = native.CAPABILITIES
    portal = Portal("192.0.2.1", 3260, "iqn.2010-10.org.openstack:")
    made: Any = daemon
    site.worker.backends.pools[0].targets = Targets(made, portal, tmp_path / "chap.key")
    return site


def attach(site: Site, volume_id: str, connector: dict[str, Any] | None = None) -> str:
    wanted = {"volume_uuid": volume_id, "instance_uuid": SERVER, "connector": connector or CONNECTOR}
    return attachment_requests.create(site.worker, SERVICE, wanted)


def files(daemon: Daemon) -> list[str]:
    return [Path(each.path or "").name for each in daemon.known.values()]


def test_a_volume_is_given_out_from_its_connector_on_until_it_is_released(given: Site, daemon: Daemon) -> None:
    volume_id = given.volume()
    held = attachment_requests.create(given.worker, SERVICE, {"volume_uuid": volume_id, "instance_uuid": SERVER})
    assert daemon.known == {}
    attachment_requests.update(given.worker, SERVICE, held, CONNECTOR)
    assert files(daemon) == [base_name(volume_id)]
    (info,) = attachment_requests.connection_infos(given.worker, SERVICE, [held]).values()
    assert info["auth_password"] and info["driver_volume_type"] == "iscsi"
    attachment_requests.complete(given.worker, SERVICE, held)
    attachment_requests.delete(given.worker, SERVICE, held)
    assert daemon.known == {} and given.row(volume_id)["status"] == "available"


def test_a_daemon_that_is_away_refuses_an_attachment_and_holds_up_no_release(given: Site, daemon: Daemon) -> None:
    volume_id = given.volume()
    held = attach(given, volume_id)
    daemon.silent = True
    attachment_requests.delete(given.worker, SERVICE, held)
    assert given.row(volume_id)["status"] == "available" and len(daemon.known) == 1
    with pytest.raises(TargetUnavailable):
        attach(given, volume_id)
    assert given.row(volume_id)["status"] == "available" and _rows(given, volume_id) == []
    exports.look(given.worker)
    daemon.silent = False
    exports.look(given.worker)
    assert daemon.known == {}
    attach(given, volume_id)
    assert len(daemon.known) == 1


def _rows(site: Site, volume_id: str) -> Any:
    with site.worker.database.read() as connection:
        return attachments.of_volumes(connection, [volume_id])[volume_id]


def test_what_a_daemon_lost_it_gets_again_and_what_nobody_asks_for_goes(given: Site, daemon: Daemon) -> None:
    attached, free = given.volume(), given.volume()
    attach(given, attached)
    known = dict(daemon.known)
    exports.look(given.worker)
    assert daemon.made == 1
    daemon.known.clear()
    prefix, share = "iqn.2010-10.org.openstack:", fakes.memory(given.worker).path
    orphan = Target(7, f"{prefix}{base_name(free)}", str(share / base_name(free)))
    foreign = Target(8, "iqn.2000-01.other:x", "/elsewhere/x")
    daemon.known |= {each.name: each for each in (orphan, foreign)}
    exports.look(given.worker)
    assert daemon.known == {**known, foreign.name: foreign}


def test_an_orphan_that_somebody_is_connected_to_is_left_alone(given: Site, daemon: Daemon) -> None:
    free = given.volume()
    share = fakes.memory(given.worker).path
    name = f"iqn.2010-10.org.openstack:{base_name(free)}"
    daemon.known[name] = Target(7, name, str(share / base_name(free)), sessions=("iqn.x:host at 192.0.2.7",))
    exports.look(given.worker)
    assert name in daemon.known


def test_the_target_of_a_volume_that_an_operation_changes_is_left_to_it(given: Site, daemon: Daemon) -> None:
    volume_id = given.volume()
    attach(given, volume_id)
    with given.worker.database.write() as connection:
        volumes.change(connection, volume_id, status="in-use")
    volume_requests.extend(given.worker, given.member, volume_id, 2)
    daemon.known.clear()
    exports.look(given.worker)
    assert daemon.known == {}
    given.end()
    assert [each.size_mb for each in daemon.known.values()] == [2 * GIB // 10**6]


def test_a_forced_release_cuts_nobody_off(given: Site, daemon: Daemon) -> None:
    volume_id = given.volume()
    held = attach(given, volume_id)
    (name,) = daemon.known
    daemon.known[name] = Target(1, name, daemon.known[name].path, sessions=("iqn.x:host at 192.0.2.7",))
    with pytest.raises(Conflict, match=r"initiator iqn.x:host at 192.0.2.7, which is connected to it"):
        force_detach.force_detach(given.worker, SERVICE, volume_id, held)
    assert name in daemon.known
    daemon.known[name] = Target(1, name, daemon.known[name].path)
    fakes.compute(given.worker).saved[volume_id] = SERVER
    with pytest.raises(Conflict, match="saved"):
        force_detach.force_detach(given.worker, SERVICE, volume_id, held)
    assert name in daemon.known, "it was refused, so the volume is given out as before"
    fakes.compute(given.worker).saved.clear()
    force_detach.force_detach(given.worker, SERVICE, volume_id, held)
    assert daemon.known == {}


def test_a_connector_without_an_initiator_reserves_nothing(given: Site, daemon: Daemon) -> None:
    volume_id = given.volume()
    with pytest.raises(BadRequest, match="no initiator"):
        attach(given, volume_id, {"ip": "192.0.2.1"})
    assert given.row(volume_id)["status"] == "available" and daemon.known == {} and _rows(given, volume_id) == []

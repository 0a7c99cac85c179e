"""What tgtd is asked, in which order, and what is read out of its answers."""

from pathlib import Path

import pytest

from stillframe.errors import TargetUnavailable
from stillframe.host import tgt
from stillframe.host.tgt import Daemon, Export, parse

NAME, OTHER = "iqn.2010-10.org.openstack:volume-1", "iqn.2010-10.org.openstack:volume-2"
SECRET = "NOBODYSEESTHIS16"
SHOWN = f"""Target 5: {NAME}
    System information:
        Driver: iscsi
        State: ready
    I_T nexus information:
        I_T nexus: 2
            Initiator: iqn.x:host alias: none
            Connection: 0
                IP Address: 192.0.2.7
    LUN information:
        LUN: 0
            Type: controller
            SCSI ID: IET     00050000
            Size: 0 MB, Block size: 1
            Online: Yes
            Backing store path: None
            Backing store flags:
        LUN: 1
            Type: disk
            SCSI SN: beaf51
            Size: 1073 MB, Block size: 512
            Backing store type: rdwr
            Backing store path: /srv/share/volume-1
            Backing store flags:
    Account information:
        user1
    ACL information:
        iqn.x:host
Target 9: {OTHER}
    System information:
        Driver: iscsi
        State: ready
    I_T nexus information:
    LUN information:
        LUN: 0
            Type: controller
            Size: 0 MB, Block size: 1
            Backing store path: None
    Account information:
    ACL information:
"""
WANTED = Export(NAME, Path("/srv/share/volume-1"), 1 << 30, "serial", "iqn.x:host", "user1", SECRET)


class Silent(Daemon):
    """Answers from a list of targets, and remembers what it was asked; ``refuses`` maps the number of a request to an error."""

    def __init__(self, shown: str = "", refuses: dict[int, int] | None = None) -> None:
        super().__init__(Path("/nowhere"))
        self.shown, self.refuses = shown, refuses or {}
        self.asked: list[tuple[int, int, int, str]] = []

    def _ask(self, mode: int, op: int, tid: int = -1, params: str = "", force: bool = False) -> bytes:
        if op == tgt._SHOW:
            return self.shown.encode()
        self.asked.append((mode, op, tid, params))
        if len(self.asked) in self.refuses:
            raise tgt._Refused(self.refuses[len(self.asked)])
        return b""


@pytest.mark.parametrize(
    ("shown", "gib", "same"),
    [(1073, 1, True), (1074, 1, True), (2147, 2, True), (4294, 4, True), (4295, 4, True), (1074, 2, False), (2147, 1, False)],
)
def test_a_size_in_whole_megabytes_is_one_size_however_it_was_rounded(shown: int, gib: int, same: bool) -> None:
    """1 GiB is 1073.7 MB: tgt 1.0.85 shows 1074."""
    assert tgt.Target(5, NAME, size_mb=shown).has_size(gib << 30) == same


def test_targets_are_read_with_what_they_give_out_and_to_whom() -> None:
    found = parse(SHOWN)
    one = found[NAME]
    assert (one.tid, one.path, one.size_mb) == (5, "/srv/share/volume-1", 1073)
    assert (one.accounts, one.initiators, one.sessions) == (("user1",), ("iqn.x:host",), ("iqn.x:host at 192.0.2.7",))
    assert found[OTHER] == tgt.Target(9, OTHER)
    assert one.gives(WANTED) and parse("") == {}


def test_nobody_may_connect_before_the_account_is_bound() -> None:
    daemon = Silent()
    daemon.export(WANTED)
    words = [params for *_, params in daemon.asked]
    assert words[0] == f"targetname={NAME}" and words[-1] == "initiator-name=iqn.x:host"
    assert words.index("user=user1") > words.index(f"user=user1,password={SECRET}")
    assert {tid for mode, _op, tid, _ in daemon.asked if mode != 7} == {1}


def test_what_is_given_out_already_is_left_alone_and_what_grew_is_made_anew() -> None:
    daemon = Silent(SHOWN)
    daemon.export(WANTED)
    assert daemon.asked == []
    daemon.export(Export(NAME, WANTED.path, 2 << 30, "serial", "iqn.x:host", "user1", SECRET))
    assert daemon.asked[0] == (1, 1, 5, "") and daemon.asked[-1][3] == "initiator-name=iqn.x:host"
    assert not [params for *_, params in daemon.asked if "online" in params]


def test_a_unit_with_writes_under_way_goes_when_they_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tgt, "_LOOK_SECONDS", 0.0)
    daemon = Silent(SHOWN, refuses={1: tgt._UNIT_ACTIVE, 2: tgt._TARGET_ACTIVE})
    daemon.withdraw(NAME)
    assert daemon.asked == [(1, 1, 5, "")] * 3 + [(7, 1, -1, "user=user1")]
    monkeypatch.setattr(tgt, "_DRAIN_SECONDS", -1.0)
    with pytest.raises(TargetUnavailable, match="the logical unit is in use"):
        Silent(SHOWN, refuses={1: tgt._UNIT_ACTIVE}).withdraw(NAME)


def test_another_account_or_initiator_makes_the_target_anew() -> None:
    daemon = Silent(SHOWN)
    daemon.export(Export(NAME, WANTED.path, 1 << 30, "serial", "iqn.x:other", "user2", SECRET))
    assert daemon.asked[:2] == [(1, 1, 5, ""), (7, 1, -1, "user=user1")]
    assert daemon.asked[-1][3] == "initiator-name=iqn.x:other"


@pytest.mark.parametrize("number", range(1, 7))
def test_a_target_that_could_not_be_made_whole_is_removed_and_the_error_holds_no_secret(number: int) -> None:
    daemon = Silent(refuses={number: 17})
    with pytest.raises(TargetUnavailable) as caught:
        daemon.export(WANTED)
    assert SECRET not in f"{caught.value}{caught.value.details}{caught.value.__cause__!r}{WANTED!r}"
    assert "could not export volume-1" in caught.value.message
    if number > 1:
        assert (1, 1, 1, "") in daemon.asked[number:]


def test_an_account_of_an_earlier_try_is_replaced() -> None:
    daemon = Silent(refuses={4: tgt._USER_EXISTS})
    daemon.export(WANTED)
    assert [(mode, op) for mode, op, *_ in daemon.asked[3:6]] == [(7, 0), (7, 1), (7, 0)]


def test_removing_what_is_gone_already_is_done() -> None:
    daemon = Silent(SHOWN, refuses={1: tgt._NO_TARGET, 2: tgt._NO_USER})
    daemon.withdraw(NAME)
    daemon.withdraw("iqn.2010-10.org.openstack:volume-unknown")
    assert len(daemon.asked) == 2


@pytest.mark.parametrize("name", ["iqn.x:a,password=b", "a\nb", "", "a\0b"])
def test_a_name_that_would_be_another_parameter_is_never_sent(name: str) -> None:
    daemon = Silent()
    with pytest.raises(TargetUnavailable):
        daemon.export(Export(NAME, WANTED.path, 1 << 30, "serial", name, "user1", SECRET))
    assert not any(name and name in params for *_, params in daemon.asked)


def test_a_daemon_that_is_away_is_named_with_its_socket(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailable, match=r"does not answer at .*/none: No such file") as caught:
        Daemon(tmp_path / "none").targets()
    assert "systemctl start tgt" in caught.value.hint

"""What a failed login at an iSCSI target means, and where the password goes. Words are those of qemu 7.2, libiscsi 1.19."""

import json
from pathlib import Path
from typing import Any

import pytest

from stillframe.errors import HostCommandFailed, NotInstalled, StillframeError, TargetRefused, TargetUnreachable
from stillframe.host import iscsi
from stillframe.host.iscsi import Unit
from stillframe.host.run import Outcome

UNIT = Unit("192.0.2.7:3260", "iqn.2010-10.org.openstack:v", 1, "iqn.2008-11.org.linux-kvm:a", "somebody")
PASSWORD = "canary-of-a-password"
PREFIX = "qemu-img: Could not open 'json:{}': iSCSI: Failed to connect to LUN : "


def answer(monkeypatch: pytest.MonkeyPatch, outcome: Outcome | Exception) -> list[list[str]]:
    """Returns the command lines that are run, each with what the file it names holds while it runs."""
    ran: list[list[str]] = []

    def attempt(command: list[str], **_: Any) -> Outcome:
        held = [word.partition("file=")[2] for word in command if word.startswith("secret,")]
        ran.append([*command, *(Path(each).read_text() for each in held)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(iscsi, "attempt", attempt)
    return ran


def test_the_password_is_in_memory_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = answer(monkeypatch, Outcome(0, json.dumps({"virtual-size": 5}), ""))
    assert iscsi.size_of(UNIT, PASSWORD) == 5
    (words,) = ran
    assert words[-1] == PASSWORD
    assert not [word for word in words[:-1] if PASSWORD in word]
    file = json.loads(words[-2].removeprefix("json:"))["file"]
    assert (file["user"], file["portal"], file["lun"]) == ("somebody", UNIT.portal, 1)
    assert not Path(words[-3].partition("file=")[2]).exists()


def test_without_an_account_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = answer(monkeypatch, Outcome(0, json.dumps({"virtual-size": 5}), ""))
    iscsi.size_of(Unit(UNIT.portal, UNIT.target, 1, UNIT.initiator), None)
    assert "--object" not in ran[0] and "user" not in ran[0][-1]


@pytest.mark.parametrize(
    ("complaint", "kind", "told"),
    [
        ("Failed to log in to target. Status: Authentication failure(513)", TargetRefused, "name and the password"),
        ("Failed to log in to target. Status: Authorization failure(514)", TargetRefused, "does not let"),
        ("Failed to log in to target. Status: Target not found(515)", TargetUnreachable, "no such target"),
        ("SENSE KEY:ILLEGAL_REQUEST(5) ASCQ:LOGICAL_UNIT_NOT_SUPPORTED(0x2500)", TargetUnreachable, "no such logical unit"),
        ("iscsi_service failed with : iscsi_service_reconnect_if_loggedin.", TargetUnreachable, "does not answer"),
    ],
)
def test_a_refusal_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, complaint: str, kind: type[StillframeError], told: str
) -> None:
    answer(monkeypatch, Outcome(1, "", PREFIX + complaint))
    with pytest.raises(kind, match=told) as caught:
        iscsi.size_of(UNIT, PASSWORD)
    assert type(caught.value) is kind
    assert UNIT.target in caught.value.message and UNIT.portal in caught.value.message
    assert PASSWORD not in str(caught.value.to_document())


def test_silence_is_an_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, HostCommandFailed("qemu-img info did not end within 10 s", timed_out=True))
    with pytest.raises(TargetUnreachable, match="does not answer within"):
        iscsi.size_of(UNIT, PASSWORD)


def test_a_driver_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, Outcome(1, "", "qemu-img: Could not open 'json:{}': Unknown driver 'iscsi'"))
    with pytest.raises(NotInstalled, match="qemu-block-extra"):
        iscsi.size_of(UNIT, PASSWORD)


def test_anything_else_keeps_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, Outcome(1, "", "qemu-img: something new"))
    with pytest.raises(TargetUnreachable, match="something new"):
        iscsi.size_of(UNIT, PASSWORD)

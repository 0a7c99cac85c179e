"""libvirt's errors in our words, with a fake domain in libvirt's place."""

import json
from contextlib import suppress
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from stillframe.errors import (
    AccessRefused,
    AgentFailed,
    AnotherJob,
    Conflict,
    HypervisorRefused,
    HypervisorUnavailable,
    NotFound,
    StepFailed,
    StillframeError,
)
from stillframe.host import hypervisor
from stillframe.printable import unsafe
from tests.unit.builders import SERVER


class Refusal(libvirt.libvirtError):  # type: ignore[misc]
    """libvirt's error with a code and a domain of our choice."""

    def __init__(self, code: int, domain: int = libvirt.VIR_FROM_QEMU, words: str = "in libvirt's words") -> None:
        Exception.__init__(self, words)
        self.err = (code, domain, words, 2, None, None, None, 0, 0)


class Domain:
    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.agent_timeouts: list[int] = []

    def UUIDString(self) -> str:
        return SERVER

    def agentSetResponseTimeout(self, seconds: int, flags: int) -> None:
        assert flags == 0
        self.agent_timeouts.append(seconds)

    def fsInfo(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


LOST = Refusal(libvirt.VIR_ERR_RPC, libvirt.VIR_FROM_RPC)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Refusal(libvirt.VIR_ERR_NO_DOMAIN), NotFound),
        (Refusal(libvirt.VIR_ERR_AGENT_UNRESPONSIVE), AgentFailed),
        (Refusal(libvirt.VIR_ERR_AGENT_UNSYNCED), AgentFailed),
        (LOST, HypervisorUnavailable),
        (Refusal(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC), HypervisorUnavailable),
        (Refusal(libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_FROM_NONE), HypervisorUnavailable),
        (Refusal(libvirt.VIR_ERR_INVALID_CONN, libvirt.VIR_FROM_NONE), HypervisorUnavailable),
        (Refusal(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_QEMU), HypervisorRefused),
        (Refusal(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_QEMU), HypervisorRefused),
        (Refusal(libvirt.VIR_ERR_OPERATION_INVALID), HypervisorRefused),
        (Refusal(libvirt.VIR_ERR_CONFIG_UNSUPPORTED), HypervisorRefused),
        (Refusal(libvirt.VIR_ERR_OPERATION_TIMEOUT), HypervisorUnavailable),
        (Refusal(libvirt.VIR_ERR_OPERATION_TIMEOUT, words="cannot acquire state change lock (held by x)"), AnotherJob),
        (Refusal(libvirt.VIR_ERR_OPERATION_FAILED, words="cannot acquire job mutex: max_queued limit reached"), AnotherJob),
        (Refusal(libvirt.VIR_ERR_ACCESS_DENIED, libvirt.VIR_FROM_ACCESS), AccessRefused),
        (Refusal(libvirt.VIR_ERR_OPERATION_DENIED), AccessRefused),
        (Refusal(libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_FROM_RPC), AccessRefused),
        (Refusal(libvirt.VIR_ERR_INTERNAL_ERROR, words="Could not open 'v': Permission denied"), AccessRefused),
    ],
)
def test_each_refusal_of_libvirt_has_its_kind(error: Refusal, kind: type[StillframeError]) -> None:
    with pytest.raises(kind, match="the thing") as told, hypervisor.translated("the thing"):
        raise error
    assert type(told.value) is kind
    assert told.value.status in (403, 404, 409, 503)


def test_libvirts_words_are_told_without_the_hosts_directories(caplog: pytest.LogCaptureFixture) -> None:
    words = "internal error: unable to execute QEMU command 'blockdev-add': Could not open '/srv/canary/volume-1': No such file"
    with (
        caplog.at_level("INFO"),
        pytest.raises(HypervisorRefused, match="'blockdev-add': Could not open 'volume-1': No such file") as told,
        hypervisor.translated("server s"),
    ):
        raise Refusal(libvirt.VIR_ERR_INTERNAL_ERROR, words=words)
    assert "canary" not in told.value.message
    assert "/srv/canary/volume-1" in caplog.text


UNREADABLE = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


def agent(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[tuple[dict[str, Any], int]]:
    sent: list[tuple[dict[str, Any], int]] = []

    def command(_domain: object, text: str, timeout: int, flags: int) -> Any:
        assert flags == 0
        sent.append((json.loads(text), timeout))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(libvirt_qemu, "qemuAgentCommand", command)
    return sent


def test_an_agent_command_carries_its_arguments_and_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = agent(monkeypatch, '{"return": 3}')
    assert hypervisor.agent_command(Domain(), "guest-x", {"a": [1]}, 7) == 3
    assert hypervisor.agent_command(Domain(), "guest-y", None, 2) == 3
    assert sent == [({"execute": "guest-x", "arguments": {"a": [1]}}, 7), ({"execute": "guest-y"}, 2)]


@pytest.mark.parametrize("answer", [None, '{"return": "' + "x" * (1 << 20) + '"}'])
def test_an_answer_that_is_missing_or_too_long_is_refused(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    agent(monkeypatch, answer)
    with pytest.raises(AgentFailed):
        hypervisor.agent_command(Domain(), "guest-ping", None, 1)


@pytest.mark.parametrize("answer", ["", "nonsense", "[]", "3", '"text"', "null", "[" * 100_000, "9" * 5_000, UNREADABLE])
def test_an_answer_that_is_no_answer_is_the_agents_failure(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    agent(monkeypatch, answer)
    with pytest.raises(AgentFailed):
        hypervisor.agent_command(Domain(), "guest-ping", None, 1)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (LOST, HypervisorUnavailable),
        (Refusal(libvirt.VIR_ERR_NO_DOMAIN), NotFound),
        (Refusal(libvirt.VIR_ERR_AGENT_UNRESPONSIVE), AgentFailed),
        (Refusal(libvirt.VIR_ERR_OPERATION_INVALID), AgentFailed),
        (Refusal(libvirt.VIR_ERR_INTERNAL_ERROR), AgentFailed),
    ],
)
def test_a_silent_agent_is_told_from_a_lost_libvirt(
    monkeypatch: pytest.MonkeyPatch, error: Refusal, kind: type[StillframeError]
) -> None:
    agent(monkeypatch, error)
    with pytest.raises(kind):
        hypervisor.agent_command(Domain(), "guest-ping", None, 1)


def test_a_guests_words_move_no_cursor_and_forge_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent's description of an error reaches the reason of a set, and so lists and terminals."""
    words = "unable to execute QEMU agent command: \x1b[31mgone\n2026-11-30 ERROR all disks are lost \u202e"
    agent(monkeypatch, Refusal(libvirt.VIR_ERR_INTERNAL_ERROR, words=words))
    with pytest.raises(AgentFailed) as told:
        hypervisor.agent_command(Domain(), "guest-ping", None, 1)
    assert r"command: \x1b[31mgone\x0a2026-11-30 ERROR all disks are lost \u202e" in told.value.message
    with pytest.raises(HypervisorRefused) as refused, hypervisor.translated("server s"):
        raise Refusal(libvirt.VIR_ERR_INTERNAL_ERROR, words=words)
    assert unsafe(refused.value.message) is None


def test_of_words_without_end_a_person_is_told_as_much_as_he_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt repeats the whole of an answer that is no JSON."""
    agent(monkeypatch, Refusal(libvirt.VIR_ERR_INTERNAL_ERROR, words="cannot parse json " + "[" * (10 << 20)))
    with pytest.raises(AgentFailed) as told:
        hypervisor.agent_command(Domain(), "guest-ping", None, 1)
    assert len(told.value.message) < 2100


def test_filesystems_come_with_the_disks_they_lie_on() -> None:
    domain = Domain([("/", "vda1", "ext4", ["vda"]), ("/proc", "proc", "proc", None)])
    assert hypervisor.guest_filesystems(domain, 5) == [("/", "vda1", "ext4", ("vda",)), ("/proc", "proc", "proc", ())]


def test_an_agent_that_cannot_list_filesystems_has_failed() -> None:
    with pytest.raises(AgentFailed):
        hypervisor.guest_filesystems(Domain(Refusal(libvirt.VIR_ERR_OPERATION_INVALID)), 5)


@pytest.mark.parametrize("answer", [[], Refusal(libvirt.VIR_ERR_OPERATION_INVALID), LOST])
def test_listing_filesystems_has_a_limit_only_while_it_lasts(answer: Any) -> None:
    domain = Domain(answer)
    with suppress(StillframeError):
        hypervisor.guest_filesystems(domain, 5)
    assert domain.agent_timeouts == [5, libvirt.VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK]


def test_a_server_that_vanishes_during_the_list_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Connection:
        def listAllDomains(self) -> list[str]:
            return ["gone", "here"]

    def view(domain: str) -> str:
        if domain == "gone":
            raise NotFound("gone")
        return domain

    connected = hypervisor.Hypervisor("test:///default")
    monkeypatch.setattr(connected, "connection", Connection)
    monkeypatch.setattr(hypervisor, "view", view)
    found: list[Any] = list(hypervisor.list_domains(connected))
    assert found == ["here"]


class Powered(Domain):
    """Refuses every power action, and is in a state of our choice after that."""

    def __init__(self, error: Refusal, state: int) -> None:
        super().__init__()
        self._error = error
        self._state = state

    def _refuse(self) -> None:
        raise self._error

    create = shutdown = destroy = suspend = resume = _refuse

    def state(self) -> tuple[int, int]:
        return self._state, 0


INVALID = Refusal(libvirt.VIR_ERR_OPERATION_INVALID)


@pytest.mark.parametrize("state", [libvirt.VIR_DOMAIN_SHUTDOWN, libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED])
def test_a_stop_that_was_obeyed_is_none_that_failed(state: int) -> None:
    """Seen with libvirt 9.0: the agent's channel closed before the event came, and the power button was refused."""
    hypervisor.power(Powered(INVALID, state), "stop")
    hypervisor.power(Powered(INVALID, state), "destroy")
    with pytest.raises(Conflict):
        hypervisor.power(Powered(INVALID, state), "pause")
    with pytest.raises(StepFailed):
        hypervisor.power(Powered(INVALID, state), "start")


@pytest.mark.parametrize("action", ["start", "stop", "destroy", "pause", "unpause"])
@pytest.mark.parametrize(
    ("error", "state"),
    [
        (INVALID, libvirt.VIR_DOMAIN_RUNNING),
        (INVALID, libvirt.VIR_DOMAIN_PAUSED),
        (Refusal(libvirt.VIR_ERR_INTERNAL_ERROR), libvirt.VIR_DOMAIN_SHUTOFF),
    ],
)
def test_a_power_action_that_failed_says_so(action: str, error: Refusal, state: int) -> None:
    with pytest.raises(StepFailed):
        hypervisor.power(Powered(error, state), action)


class Saved(Domain):
    """A domain that does not run; ``images`` are what is said, look by look, of its managed save image."""

    def __init__(self, images: list[int], described: Any) -> None:
        super().__init__(described)
        self.images = images

    def hasManagedSaveImage(self, _flags: int) -> int:
        return self.images.pop(0)

    def managedSaveGetXMLDesc(self, _flags: int) -> Any:
        return self.fsInfo()

    def state(self) -> list[int]:
        return [5, 5]

    def isActive(self) -> int:
        return 0

    def isPersistent(self) -> int:
        return 1

    def name(self) -> str:
        return "guest"

    def XMLDesc(self, _flags: int) -> str:
        return "<domain/>"


UNREADABLE = Refusal(libvirt.VIR_ERR_OPERATION_FAILED)


@pytest.mark.parametrize(
    ("images", "described", "saved"),
    [
        ([0], None, (False, None)),
        ([1], "<saved/>", (True, "<saved/>")),
        ([1, 1], UNREADABLE, (True, None)),
        ([1, 0], UNREADABLE, (False, None)),  # used up or removed between two looks
    ],
)
def test_a_saved_domain_shows_what_its_memory_goes_on_with(
    images: list[int], described: Any, saved: tuple[bool, str | None]
) -> None:
    found = hypervisor.view(Saved(images, described))
    assert (found.saved, found.saved_xml) == saved
    assert not found.active

"""What libvirt says of other programs' jobs, in words."""

from typing import Any

import libvirt
import pytest

from stillframe.errors import AnotherJob, NotFound
from stillframe.host import domain_jobs, hypervisor


def refusal(code: int, words: str = "refused") -> libvirt.libvirtError:
    made = libvirt.libvirtError(words)
    made.err = (code, libvirt.VIR_FROM_QEMU, words, 2, "", "", "", 0, 0)
    return made


class Domain:
    """Idle, until a test says otherwise."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {
            "jobStats": {"type": 0},
            "backupGetXMLDesc": refusal(libvirt.VIR_ERR_NO_DOMAIN_BACKUP),
            "blockJobInfo": {},
            **answers,
        }

    def UUIDString(self) -> str:
        return "uuid"

    def _answer(self, name: str) -> Any:
        if isinstance(self.answers[name], Exception):
            raise self.answers[name]
        return self.answers[name]

    def jobStats(self, _flags: int) -> Any:
        return self._answer("jobStats")

    def backupGetXMLDesc(self, _flags: int) -> Any:
        return self._answer("backupGetXMLDesc")

    def blockJobInfo(self, target: str, _flags: int) -> Any:
        found = self._answer("blockJobInfo")
        return found if target == "vdb" else {}


LOCKED = refusal(libvirt.VIR_ERR_OPERATION_TIMEOUT, "cannot acquire state change lock (held by monitor=x)")


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ({}, None),
        ({"jobStats": refusal(libvirt.VIR_ERR_OPERATION_INVALID)}, None),
        ({"jobStats": {"type": 2, "operation": 9}}, "a backup job"),
        ({"jobStats": {"type": 1, "operation": 5}}, "a migration job"),
        ({"jobStats": {"type": 2, "operation": 2}}, "a save job"),
        ({"jobStats": {"type": 2, "operation": 99}}, "a libvirt job"),
        ({"jobStats": {"type": 2}}, "a libvirt job"),
        ({"backupGetXMLDesc": "<domainbackup/>"}, "a backup job"),
        ({"blockJobInfo": {"type": 2}}, "a block copy job on disk vdb"),
        ({"blockJobInfo": {"type": 5}}, "a block job on disk vdb"),
        ({"jobStats": LOCKED}, "a call that has held libvirt's lock for 30 s"),
        ({"blockJobInfo": LOCKED}, "a call that has held libvirt's lock for 30 s"),
    ],
)
def test_a_job_is_told_in_words(answers: dict[str, Any], found: str | None) -> None:
    assert domain_jobs.find(Domain(**answers), ("vda", "vdb")) == found


def test_a_domain_that_is_gone_is_no_idle_one() -> None:
    with pytest.raises(NotFound):
        domain_jobs.find(Domain(jobStats=refusal(libvirt.VIR_ERR_NO_DOMAIN)), ("vda",))


@pytest.mark.parametrize(("operation", "is_one"), [(6, True), (9, False)])
def test_a_snapshot_is_told_from_other_jobs(operation: int, is_one: bool) -> None:
    assert domain_jobs.is_snapshot(Domain(jobStats={"type": 2, "operation": operation})) is is_one
    assert not domain_jobs.is_snapshot(Domain())


def test_a_call_that_libvirt_gave_no_turn_is_another_programs_job() -> None:
    with pytest.raises(AnotherJob), hypervisor.translated("server x"):
        raise LOCKED

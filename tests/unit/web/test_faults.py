"""Errors as OpenStack clients read them."""

import pytest

from stillframe.errors import Conflict, InternalError, StillframeError, catalogue
from stillframe.web import faults


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "badRequest"),
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "itemNotFound"),
        (405, "badMethod"),
        (409, "conflictingRequest"),
        (413, "overLimit"),
        (415, "badMediaType"),
        (502, "badGateway"),
        (503, "serviceUnavailable"),
        (500, "computeFault"),
        (406, "computeFault"),
    ],
)
def test_a_fault_has_the_name_clients_know(status: int, name: str) -> None:
    assert faults.body(status, "m") == {name: {"code": status, "message": "m"}}


def test_a_fault_says_what_why_and_what_to_do_and_carries_the_details() -> None:
    ((_, fault),) = faults.of_error(Conflict("volume v is busy", operation_id="o")).items()
    assert fault["message"] == f"volume v is busy [conflict: {Conflict.hint}]"
    assert (fault["code"], fault["operation_id"]) == (409, "o")


@pytest.mark.parametrize("kind", [kind for _, kind in sorted(catalogue().items())])
def test_no_fault_of_ours_tells_internals(kind: type[StillframeError]) -> None:
    ((_, fault),) = faults.of_error(kind("the canary")).items()
    assert ("canary" in fault["message"]) is (kind.status != 500)
    assert kind.code in fault["message"]


def test_a_500_keeps_its_details_to_itself() -> None:
    ((_, fault),) = faults.of_error(InternalError("m", libvirt_code=1)).items()
    assert set(fault) == {"code", "message"}

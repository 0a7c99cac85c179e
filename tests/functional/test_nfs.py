"""NFS on a real kernel: one boot of the machine that has it, one test for each of its checks. See ``tests/support/nfs_vm``.

The driver suite is here in its short form; all of it takes half an hour without acceleration: ``make test-nfs``.
"""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.driver_suite.__main__ import quickly
from tests.support.nfs_checks import CHECKS
from tests.support.nfs_vm import PYTHON, run_in_vm


@pytest.fixture(scope="module")
def answers() -> Mapping[str, Any]:
    """What went wrong, or None, by the check's name."""
    code, output = run_in_vm([PYTHON, "-m", "tests.support.nfs_checks"], timeout=900, user="root")
    try:
        found = [json.loads(line) for line in output.splitlines()]
    except ValueError:
        raise AssertionError(f"the checks ended with {code}:\n{output[-6000:]}") from None
    return {entry["check"]: entry["problem"] for entry in found}


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("check", [*CHECKS, *quickly()])
def test_nfs(answers: Mapping[str, Any], check: str) -> None:
    assert check in answers, f"the machine did not get this far: {list(answers)}"
    assert answers[check] is None, answers[check]

"""What a program's words mean, and what of them is told to everybody."""

import pytest

from stillframe.errors import AccessRefused, HostCommandFailed, ImageLocked
from stillframe.host import image_command, wording
from stillframe.host.run import Outcome, failure


@pytest.mark.parametrize("path", ["v", "/tmp/pins/v"])
def test_a_chain_that_is_spelled_out_is_told_by_its_first_file(path: str) -> None:
    named = image_command.chain([(path, "qcow2"), ("below", "qcow2"), ("base", "raw")])
    assert wording.without_chains(f"Could not open '{named}': Permission denied") == "Could not open 'v': Permission denied"
    two = f"'{named}' and '{named}'"
    assert wording.without_chains(two) == "'v' and 'v'"


@pytest.mark.parametrize(
    ("words", "kind", "status", "may_retry"),
    [
        ('Failed to get "write" lock Is another process using the image [v]?', ImageLocked, 409, True),
        ('Failed to get shared "write" lock', ImageLocked, 409, True),
        ('Failed to get "consistent read" lock', ImageLocked, 409, True),
        ("Could not open 'v': Permission denied", AccessRefused, 403, False),
        ("Could not open 'v': Operation not permitted", AccessRefused, 403, False),
        ("Bitmap 'b' is inconsistent and cannot be used", HostCommandFailed, 409, False),
        ("Could not open 'v': No such file or directory", HostCommandFailed, 409, False),
        ("error while writing at byte 0: No space left on device", HostCommandFailed, 409, False),
        ("", HostCommandFailed, 409, False),
    ],
)
def test_waiting_helps_where_a_lock_is_held_and_nowhere_else(
    words: str, kind: type[HostCommandFailed], status: int, may_retry: bool
) -> None:
    found = failure(["qemu-img", "resize", "-q"], Outcome(1, "", words), "v")
    assert type(found) is kind
    assert (found.status, found.may_retry) == (status, may_retry)
    assert found.message == f"v: qemu-img resize failed with exit code 1{f': {words}' if words else ' and gave no message'}"
    assert found.details == {"exit_code": 1}

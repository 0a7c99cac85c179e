"""Every kind of error: its stable code, and that it survives the way to another process."""

import errno
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe import errors
from stillframe.errors import StillframeError, catalogue, convert, from_document
from stillframe.printable import escaped

KINDS = sorted(convert._all_kinds(StillframeError), key=lambda kind: kind.__name__)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
DETAILS = st.dictionaries(st.text("abcdefghij_", min_size=1).map(lambda name: f"d_{name}"), JSON, max_size=3)
STABLE = {
    "access_refused": 403,
    "agent_failed": 409,
    "another_job": 409,
    "already_running": 409,
    "schema_mismatch": 500,
    "scratch_unusable": 503,
    "backup_store_unavailable": 503,
    "bad_backup": 409,
    "bad_configuration": 500,
    "bad_image": 409,
    "bad_request": 400,
    "busy": 409,
    "abandoned": 409,
    "cancelled": 409,
    "chain_conflict": 409,
    "conflict": 409,
    "file_in_use": 409,
    "forbidden": 403,
    "foreign_share": 503,
    "hook_failed": 409,
    "host_command_failed": 409,
    "hypervisor_refused": 409,
    "hypervisor_unavailable": 503,
    "id_in_use": 409,
    "image_locked": 409,
    "image_not_sound": 409,
    "image_not_usable": 400,
    "image_service_not_configured": 400,
    "image_service_unavailable": 503,
    "internal": 500,
    "internal_error": 500,
    "internal_snapshots": 409,
    "not_found": 404,
    "path_not_found": 404,
    "method_not_allowed": 405,
    "media_type_not_supported": 415,
    "parked": 409,
    "quiesce_refused": 409,
    "quota_exceeded": 413,
    "not_installed": 501,
    "service_busy": 503,
    "service_failed": 502,
    "service_unavailable": 503,
    "share_unavailable": 503,
    "step_failed": 409,
    "target_unavailable": 503,
    "target_refused": 409,
    "target_unreachable": 503,
    "still_running": 409,
    "too_large": 413,
    "too_many_connections": 429,
    "too_many_requests": 429,
    "unauthorized": 401,
    "version_not_supported": 406,
}


def test_every_kind_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in KINDS]
    assert sorted(set(codes)) == sorted(codes)
    assert set(catalogue().values()) == set(KINDS)


def test_codes_and_statuses_are_those_that_clients_know() -> None:
    assert {code: kind.status for code, kind in catalogue().items()} == STABLE


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_says_what_to_do_next(kind: type[StillframeError]) -> None:
    assert kind.hint.endswith(".")
    assert kind is StillframeError or kind.hint != StillframeError.hint


def test_what_does_not_answer_or_is_locked_may_be_tried_again_and_nothing_else() -> None:
    away = {code for code, status in STABLE.items() if status == 503}
    assert {kind.code for kind in KINDS if kind.may_retry} == away | {"image_locked"}


def test_only_what_is_our_own_doing_is_a_500() -> None:
    assert {code for code, status in STABLE.items() if status == 500} == {
        "bad_configuration",
        "internal",
        "internal_error",
        "schema_mismatch",
    }


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/srv/canary/volume-1"), "chain_conflict", "volume-1 is"),
        (PermissionError(errno.EACCES, "Permission denied", "/srv/canary/volume-1"), "access_refused", "volume-1: Permission"),
        (PermissionError(errno.EPERM, "Operation not permitted"), "access_refused", "Operation not permitted"),
        (OSError(errno.EIO, "Input/output error", b"/srv/canary/volume-1"), "step_failed", "volume-1: Input/output error"),
        (OSError("without a number"), "step_failed", "without a number"),
        (TimeoutError(), "step_failed", "TimeoutError"),
    ],
)
def test_what_the_system_refuses_is_told_in_its_words_without_the_hosts_directories(
    error: OSError, code: str, told: str
) -> None:
    found = errors.of_os_error(error)
    assert (found.code, found.may_retry) == (code, False)
    assert told in found.message
    assert "canary" not in found.message


@pytest.mark.parametrize("kind", KINDS)
@given(message=st.text(), details=DETAILS)
def test_an_error_is_the_same_after_its_journey(kind: type[StillframeError], message: str, details: dict[str, Any]) -> None:
    error = kind(message, **details)
    again = from_document(json.loads(json.dumps(error.to_document())))
    assert type(again) is kind
    assert (again.message, again.details, str(again)) == (escaped(message, keep="\n\t"), details, str(error))


def test_a_command_line_prints_the_message_and_what_to_do_next() -> None:
    assert str(errors.Conflict("busy")) == f"busy\nhint: {errors.Conflict.hint}"


def test_a_code_nobody_knows_becomes_the_base_kind() -> None:
    error = from_document({"code": "from the future", "message": "m", "details": {"a": 1}})
    assert type(error) is StillframeError
    assert (error.message, error.details) == ("m", {"a": 1})


def test_every_kind_is_imported_from_the_package() -> None:
    assert {kind.__name__ for kind in KINDS if kind.__module__.startswith("stillframe.errors.")} <= set(errors.__all__)

"""Who asks: what the roles mean, and that it survives the way to the worker."""

import json
import re

import pytest

from stillframe.context import Context, LogContext, bind_log, new_request_id, operation_log
from tests.unit.builders import context


@pytest.mark.parametrize(
    ("roles", "admin", "service"),
    [
        (("reader",), False, False),
        (("member", "reader"), False, False),
        (("administrator", "services"), False, False),
        (("member", "admin"), True, False),
        (("service",), False, True),
    ],
)
def test_only_admins_and_the_service_see_all_projects(roles: tuple[str, ...], admin: bool, service: bool) -> None:
    who = context(*roles)
    assert (who.is_admin, who.is_service, who.sees_all_projects) == (admin, service, admin or service)


def test_a_context_is_the_same_after_its_journey() -> None:
    who = context("member", "reader", project="other")
    assert Context.from_document(json.loads(json.dumps(who.to_document()))) == who


def test_request_ids_have_the_known_form_and_differ() -> None:
    first, second = new_request_id(), new_request_id()
    assert re.fullmatch(r"req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", first)
    assert first != second


def test_log_lines_carry_the_request_and_inside_an_operation_also_that() -> None:
    bind_log(context("member"))
    with operation_log("op", "req-2"):
        inside = LogContext(request_id="req-2").to_dict()
    outside = LogContext(request_id="req-2").to_dict()
    assert (inside["operation_id"], inside["request_id"]) == ("op", "req-2")
    assert outside["operation_id"] is None


def test_a_service_token_beside_the_users_lets_the_user_see_no_more() -> None:
    who = Context("somebody", "demo", ("member",), "req-1", with_service_token=True)
    assert (who.has_service_identity, who.is_service, who.sees_all_projects) == (True, False, False)
    assert Context.from_document(json.loads(json.dumps(who.to_document()))) == who


def test_a_context_from_before_service_tokens_has_none() -> None:
    document = context("member").to_document()
    del document["with_service_token"]
    assert not Context.from_document(document).with_service_token


@pytest.mark.parametrize(("roles", "service"), [(("service",), True), (("member", "admin"), False)])
def test_a_service_has_the_identity_of_one_without_another_token(roles: tuple[str, ...], service: bool) -> None:
    assert context(*roles).has_service_identity is service

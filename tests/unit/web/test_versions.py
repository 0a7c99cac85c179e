"""Which microversion a request asks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe import client
from stillframe.compute.api.routes import SERVICE as COMPUTE
from stillframe.errors import BadRequest, StillframeError, VersionNotSupported
from stillframe.volumes.api.routes import SERVICE as VOLUMES
from stillframe.web import versions

HEADER = "openstack-api-version"
LEGACY = "x-openstack-nova-api-version"


def test_a_request_that_names_no_version_gets_the_oldest() -> None:
    assert versions.requested(VOLUMES, {}) == (3, 0)
    assert versions.requested(COMPUTE, {}) == (2, 1)


def test_latest_is_the_newest() -> None:
    assert versions.requested(VOLUMES, {HEADER: "volume latest"}) == VOLUMES.maximum
    assert versions.requested(COMPUTE, {HEADER: "compute latest"}) == COMPUTE.maximum
    assert versions.requested(COMPUTE, {LEGACY: "latest"}) == COMPUTE.maximum


@pytest.mark.parametrize("text", ["3.0", "3.27", "3.71"])
def test_a_version_inside_the_range_is_taken(text: str) -> None:
    assert versions.show(versions.requested(VOLUMES, {HEADER: f"volume {text}"})) == text


@pytest.mark.parametrize("text", ["3.72", "2.99", "4.0", "3.9999", "999.0", "0.0"])
def test_a_version_outside_the_range_is_406_and_names_the_range(text: str) -> None:
    with pytest.raises(VersionNotSupported, match=r"minimum is 3\.0, maximum is 3\.71") as told:
        versions.requested(VOLUMES, {HEADER: f"volume {text}"})
    assert told.value.status == 406


@pytest.mark.parametrize(
    "text", ["3", "3.", ".3", "3.x", "3.7.1", "-3.7", "3.-7", "three", "3,7", "\u0663.\u0667", "3.12345", "3.7 x"]
)
def test_a_version_that_is_none_is_400(text: str) -> None:
    with pytest.raises(BadRequest):
        versions.requested(COMPUTE, {LEGACY: text})
    if "," not in text:
        with pytest.raises(BadRequest, match="invalid format"):
            versions.requested(VOLUMES, {HEADER: f"volume {text}"})


def test_a_version_for_another_service_is_not_ours() -> None:
    assert versions.requested(VOLUMES, {HEADER: "compute 2.90"}) == (3, 0)
    assert versions.requested(COMPUTE, {HEADER: "compute 2.90, volume 3.5"}) == (2, 90)
    assert versions.requested(VOLUMES, {HEADER: "compute 2.90, volume 3.5"}) == (3, 5)


def test_the_old_header_counts_for_compute_unless_the_new_one_is_there() -> None:
    assert versions.requested(COMPUTE, {LEGACY: "2.60"}) == (2, 60)
    assert versions.requested(COMPUTE, {LEGACY: "2.60", HEADER: "compute 2.70"}) == (2, 70)
    assert versions.requested(VOLUMES, {LEGACY: "3.60"}) == (3, 0)


@given(st.text(max_size=60))
def test_any_header_is_a_version_in_range_or_an_error_of_ours(text: str) -> None:
    for service, word in ((VOLUMES, "volume"), (COMPUTE, "compute")):
        try:
            found = versions.requested(service, {HEADER: f"{word} {text}"})
        except StillframeError as error:
            assert error.status in (400, 406)
        else:
            assert service.minimum <= found <= service.maximum


def test_what_is_ours_comes_on_request() -> None:
    assert versions.ADDITIONS == client.ADDITIONS
    name = versions.ADDITIONS.lower()
    assert [versions.wants_additions(headers) for headers in ({}, {name: "0"}, {name: "1"})] == [False, False, True]
    for value in ("", "2", "yes", "1 "):
        with pytest.raises(BadRequest, match="this release knows 1"):
            versions.wants_additions({name: value})

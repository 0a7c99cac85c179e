"""What makes a chain valid: every rule broken alone."""

from dataclasses import replace

import pytest

from stillframe.chain.image import Chain, Image, check
from stillframe.chain.names import base_name, overlay_name
from stillframe.errors import BadImage, ChainConflict
from tests.unit.builders import GIB, OTHER_SNAPSHOT, OTHER_VOLUME, SNAPSHOT, VOLUME

BASE = Image(base_name(VOLUME), "qcow2", GIB)
FIRST = Image(overlay_name(VOLUME, SNAPSHOT), "qcow2", GIB, BASE.name, "qcow2")
SECOND = Image(overlay_name(VOLUME, OTHER_SNAPSHOT), "qcow2", GIB, FIRST.name, "qcow2")


def chain(*images: Image) -> Chain:
    return Chain(VOLUME, images)


def test_a_valid_chain_is_returned_as_it_is() -> None:
    for whole in (chain(BASE), chain(BASE, FIRST), chain(BASE, FIRST, SECOND)):
        assert check(whole) is whole


def test_base_active_and_depth_are_the_ends_of_the_chain() -> None:
    whole = chain(BASE, FIRST, SECOND)
    assert (whole.base, whole.active, whole.depth) == (BASE, SECOND, 3)


def test_an_overlay_may_be_larger_than_what_is_behind_it() -> None:
    check(chain(BASE, replace(FIRST, size=2 * GIB)))


def test_a_raw_base_is_valid_when_it_is_called_raw() -> None:
    check(chain(replace(BASE, format="raw"), replace(FIRST, backing_format="raw")))


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ((), "has no file"),
        ((replace(BASE, backing=FIRST.name, backing_format="qcow2"),), "as its backing file"),
        ((BASE, replace(FIRST, backing=None, backing_format=None)), "as its backing file"),
        ((BASE, replace(FIRST, backing=SECOND.name)), "as its backing file"),
        ((BASE, SECOND), "as its backing file"),
        ((FIRST, SECOND), "as its backing file"),
        ((BASE, replace(FIRST, backing=f"/srv/{BASE.name}")), "as its backing file"),
        ((BASE, replace(FIRST, backing_format="raw")), "calls its backing file"),
        ((BASE, replace(FIRST, backing_format=None)), "calls its backing file"),
        ((BASE, replace(FIRST, size=GIB - 1)), "shrink"),
        ((BASE, FIRST, SECOND, replace(FIRST, backing=SECOND.name)), "loop"),
        ((BASE, replace(BASE, backing=BASE.name, backing_format="qcow2")), "loop"),
    ],
)
def test_a_broken_link_is_told(images: tuple[Image, ...], told: str) -> None:
    with pytest.raises(ChainConflict, match=told):
        check(chain(*images))


def test_the_last_link_is_looked_at_as_closely_as_the_first() -> None:
    with pytest.raises(ChainConflict, match=SECOND.name):
        check(chain(BASE, FIRST, replace(SECOND, size=1)))


@pytest.mark.parametrize("name", [base_name(OTHER_VOLUME), "passwd", f"{BASE.name}\n", f"../{BASE.name}"])
def test_a_file_that_is_not_the_volumes_is_refused(name: str) -> None:
    with pytest.raises(BadImage):
        check(chain(replace(BASE, name=name)))
    with pytest.raises(BadImage):
        check(chain(BASE, replace(FIRST, name=name)))

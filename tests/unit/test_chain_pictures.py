"""The page with pictures of chains shows what the plans do now."""

import pytest

from tests.support.chain_pictures import BLOCK, PAGE, PICTURES, drawn, page

METHODS = {
    "active-commit": "active commit and pivot",
    "block-commit": "block commit",
    "block-pull": "block pull",
    "offline-commit": "offline commit",
    "offline-pull": "offline pull",
    "together": "active commit and pivot",
    "remove": "remove",
    "record-only": "record only",
    "refused": "refused",
}


def test_the_page_has_every_picture_as_it_is_drawn_now() -> None:
    text = PAGE.read_text()
    assert sorted(BLOCK.findall(text)) == sorted(PICTURES)
    assert page(text) == text, "run python -m tests.support.chain_pictures"


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_of_the_kind_its_name_says(name: str) -> None:
    assert f"\n{METHODS[name]}: " in drawn(name)

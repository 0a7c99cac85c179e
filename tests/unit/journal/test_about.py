"""Code for all kinds reads of an intent what has one meaning in all of them."""

from typing import Any

import pytest

from stillframe.journal.about import About, Backup, about
from stillframe.journal.typed import Intent


class Copy(Intent, frozen=True, kw_only=True):
    volume_id: str
    size: int
    snapshot_ids: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("intent", "found"),
    [
        (Copy(volume_id="v", size=1), About(volume_id="v")),
        ({"volume_id": "v", "snapshot_ids": ["s", "t"]}, About(volume_id="v", snapshot_ids=("s", "t"))),
        ({"backup": {"id": "b", "container": "c"}, "server_id": None}, About(backup=Backup(id="b"))),
        ({"volume_id": 7, "set_id": "s"}, About()),
        ({}, About()),
    ],
)
def test_what_an_intent_says_is_read_and_the_rest_left_out(intent: Any, found: About) -> None:
    assert about(intent) == found

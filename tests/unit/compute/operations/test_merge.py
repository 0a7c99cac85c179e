"""What a merge holds: which other merges wait for it."""

from typing import Any

from stillframe.compute.operations import merge


def held(server_id: str, volume_id: str, kind: str = "pull") -> set[str]:
    intent: dict[str, Any] = {"kind": kind, "server_id": server_id, "volume_id": volume_id}
    return set(merge.request(intent, None, "r").resources)


def test_merges_of_one_server_wait_for_each_other_and_those_of_others_do_not() -> None:
    assert held("one", "a") & held("one", "b")
    assert held("one", "a", "commit") & held("one", "b")
    assert not held("one", "a") & held("two", "b")
    assert held("one", "a") & held("two", "a")

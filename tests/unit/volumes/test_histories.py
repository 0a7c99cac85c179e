"""Whole histories of volumes, workers dying and shares failing at random: every volume and every snapshot reads as it must."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from stillframe.db import snapshots, volumes
from stillframe.errors import ShareUnavailable, StepFailed, StillframeError
from stillframe.volumes import periodic
from stillframe.volumes.requests import new_volumes
from stillframe.volumes.requests import snapshots as snapshot_requests
from stillframe.volumes.requests import volumes as volume_requests
from tests.unit.volumes.conftest import NewSite
from tests.unit.volumes.site import Site
from tests.unit.volumes.test_every_moment import linking

Action = tuple[str, int, int]
Follow = Callable[[], None]
VERBS = (
    ["write"] * 4
    + ["snapshot"] * 3
    + ["delete", "delete", "delete several", "revert", "revert", "undo", "extend", "copy", "link", "remove", "clean_up"]
)
ACTIONS = st.lists(st.tuples(st.sampled_from(VERBS), st.integers(0, 63), st.integers(0, 63)), min_size=3, max_size=14)
MOMENTS = st.lists(st.integers(1, 60), max_size=20)


def snapshots_of(site: Site, volume_id: str) -> list[str]:
    with site.worker.database.read() as connection:
        rows = snapshots.of_volume(connection, volume_id)
    return [row["id"] for row in rows if row["status"] == "available"]


def volumes_of(site: Site) -> list[str]:
    with site.worker.database.read() as connection:
        return [row["id"] for row in volumes.list_all(connection) if row["status"] == "available"]


def ask(site: Site, action: Action) -> Follow | None:  # noqa: C901 -- one arm a verb
    """Asks for the operation; returns what the model does once it is done."""
    verb, first, second = action
    known = volumes_of(site)
    if verb == "copy" or not known:
        return _copy(site, known, first)
    volume_id = known[first % len(known)]
    taken = snapshots_of(site, volume_id)
    snapshot_id = taken[second % len(taken)] if taken else ""
    member, worker, model = site.member, site.worker, site.model
    if verb == "write":
        site.write(volume_id, second % 7, 1000 + first * 64 + second)
        return None
    if verb == "snapshot":
        made = snapshot_requests.create(worker, member, volume_id, {})
        return lambda: model.update({made: dict(model[volume_id])})
    if verb == "extend":
        volume_requests.extend(worker, member, volume_id, site.row(volume_id)["size"] + 1)
        return lambda: None
    if verb == "clean_up":
        periodic.look(worker)
        return lambda: None
    if verb == "undo":
        before = site.share.content(site.row(volume_id)["undo_file"]) if site.row(volume_id)["undo_file"] else {}
        volume_requests.undo_revert(worker, member, volume_id)
        return lambda: model.update({volume_id: before})
    if verb == "remove":
        volume_requests.delete(worker, member, volume_id, cascade=True)
        return lambda: None
    if not taken:
        return None
    if verb == "delete several":
        snapshot_requests.delete_several(worker, member, [each for bit, each in enumerate(taken) if second & 1 << bit] or taken)
    elif verb == "delete":
        snapshot_requests.delete(worker, member, snapshot_id)
    elif verb == "link":
        made = new_volumes.create(worker, member, {"snapshot_id": snapshot_id, "volume_type": "linked"})
        return lambda: model.update({made: dict(model[snapshot_id])})
    else:
        volume_requests.revert(worker, member, volume_id, snapshot_id, "remove" if first & 1 else "keep")
        return lambda: model.update({volume_id: dict(model[snapshot_id])})
    return lambda: None


def _copy(site: Site, known: list[str], number: int) -> Follow:
    source = known[number % len(known)] if known and number % 4 else None
    wanted = {"source_volid": source} if source else {"size": 1}
    made = new_volumes.create(site.worker, site.member, wanted)
    held = dict(site.model[source]) if source else {}
    return lambda: site.model.update({made: held})


def ended(site: Site) -> str:
    return str(site.newest()["state"])


def live(site: Site, actions: list[Action], troubles: list[int], end: Callable[[int], None]) -> None:
    """Each action, its operation with the trouble ``end`` makes of the next number, and a look at everything."""
    linking(site)
    left = list(troubles)
    for action in actions:
        before = site.newest()["id"] if site.asked() else None
        try:
            follow = ask(site, action)
        except StillframeError:
            site.check()
            continue
        end(left.pop() if left else 0)
        asked = site.asked() and site.newest()["id"] != before
        if follow is not None and (not asked or ended(site) == "done"):
            follow()
        site.check()
    site.settle()
    site.check()
    assert [row["fault"] for row in site.rows() if row["status"] == "available" and not site.documents_are_right(row)] == []


@settings(max_examples=25)
@given(ACTIONS, MOMENTS)
def test_workers_die_at_any_moment(new_site: NewSite, actions: list[Action], moments: list[int]) -> None:
    site = new_site()

    def end(moment: int) -> None:
        site.end(frozenset({moment}))
        assert not site.asked() or ended(site) == "done"

    live(site, actions, moments, end)


@settings(max_examples=25)
@given(ACTIONS, MOMENTS, st.sampled_from([ShareUnavailable, StepFailed]))
def test_the_share_fails_at_any_moment(
    new_site: NewSite, actions: list[Action], moments: list[int], error: type[StillframeError]
) -> None:
    site = new_site()

    def end(moment: int) -> None:
        site.end(fails={moment: error("by hand")})
        assert not site.asked() or ended(site) in ("done", "undone")

    live(site, actions, moments, end)

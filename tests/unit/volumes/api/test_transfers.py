"""A volume that changes hands: offered, accepted with its key, or kept after all."""

import pytest

from stillframe.db import transfers
from stillframe.volumes import periodic
from tests.unit.builders import SET
from tests.unit.volumes.rest import ADMIN, MEMBER, OTHER, Rest

BOTH = pytest.mark.parametrize("path", ["/os-volume-transfer", "/volume-transfers"])


def offer(rest: Rest, volume_id: str, path: str = "/volume-transfers", **more: object) -> dict[str, str]:
    made: dict[str, str] = rest.ok("POST", path, {"transfer": {"volume_id": volume_id, **more}})["transfer"]
    return made


@BOTH
def test_a_volume_and_its_snapshots_are_the_acceptors(rest: Rest, path: str) -> None:
    made = rest.volume(size=2)
    rest.ok("POST", "/snapshots", {"snapshot": {"volume_id": made}})
    given = offer(rest, made, path, name="for you")
    assert rest.status(made) == "awaiting-transfer"
    body = {"accept": {"auth_key": given["auth_key"]}}
    taken = rest.ok("POST", f"{path}/{given['id']}/accept", body, who=OTHER)["transfer"]
    assert (taken["volume_id"], taken["name"]) == (made, "for you")
    shown = rest.ok("GET", f"/volumes/{made}", who=OTHER)["volume"]
    assert (shown["os-vol-tenant-attr:tenant_id"], shown["status"]) == ("other", "available")
    assert len(rest.ok("GET", "/snapshots", who=OTHER)["snapshots"]) == 1
    rest.refused(404, "GET", f"/volumes/{made}")
    assert rest.ok("GET", "/snapshots")["snapshots"] == []
    assert rest.ok("GET", "/limits")["limits"]["absolute"]["totalGigabytesUsed"] == 0
    assert rest.ok("GET", "/limits", who=OTHER)["limits"]["absolute"]["totalGigabytesUsed"] == 4
    rest.refused(404, "GET", f"{path}/{given['id']}")
    rest.refused(404, "POST", f"{path}/{given['id']}/accept", body, who=OTHER)


def test_a_wrong_key_gives_nothing_and_the_right_one_is_kept_nowhere(rest: Rest) -> None:
    made = rest.volume()
    given = offer(rest, made)
    for key in ("", "x", given["id"], given["auth_key"][:-1], 7):
        rest.refused(404, "POST", f"/volume-transfers/{given['id']}/accept", {"accept": {"auth_key": key}}, who=OTHER)
    assert rest.status(made) == "awaiting-transfer"
    assert "auth_key" not in rest.ok("GET", f"/volume-transfers/{given['id']}")["transfer"]
    with rest.site.worker.database.read() as connection:
        row = transfers.get(connection, given["id"], None)
    assert row is not None
    assert given["auth_key"] not in str(row)


def test_an_offer_is_seen_and_taken_back_by_its_project_only(rest: Rest) -> None:
    made = rest.volume()
    given = offer(rest, made)
    for method in ("GET", "DELETE"):
        rest.refused(404, method, f"/volume-transfers/{given['id']}", who=OTHER)
    assert rest.ok("GET", "/volume-transfers/detail", who=OTHER)["transfers"] == []
    assert [each["id"] for each in rest.ok("GET", "/volume-transfers/detail")["transfers"]] == [given["id"]]
    assert set(rest.ok("GET", "/os-volume-transfer", version="3.0")["transfers"][0]) == {"id", "volume_id", "name", "links"}
    rest.ok("DELETE", f"/volume-transfers/{given['id']}")
    assert rest.status(made) == "available"


def test_what_cannot_change_hands_is_not_offered(rest: Rest) -> None:
    made = rest.volume()
    rest.ok("POST", "/snapshots", {"snapshot": {"volume_id": made}})
    body = {"transfer": {"volume_id": made, "no_snapshots": True}}
    assert "cannot stay behind" in rest.refused(400, "POST", "/volume-transfers", body)
    rest.act(made, "os-reset_status", {"status": "error"}, who=ADMIN)
    rest.refused(400, "POST", "/volume-transfers", {"transfer": {"volume_id": made}})
    rest.refused(404, "POST", "/volume-transfers", {"transfer": {"volume_id": SET}})
    theirs = rest.volume(who=OTHER)
    rest.refused(404, "POST", "/volume-transfers", {"transfer": {"volume_id": theirs}})


def accepted(rest: Rest, volume_id: str) -> None:
    given = offer(rest, volume_id)
    rest.ok("POST", f"/volume-transfers/{given['id']}/accept", {"accept": {"auth_key": given["auth_key"]}}, who=OTHER)


def test_what_was_reverted_does_not_change_hands(rest: Rest) -> None:
    """The acceptor gets what the volume holds and its snapshots, not what its project took out of it."""
    made = rest.volume()
    snapshot = rest.ok("POST", "/snapshots", {"snapshot": {"volume_id": made}})["snapshot"]["id"]
    rest.site.share.write(rest.site.row(made)["active_file"], 1, 7)
    rest.act(made, "revert", {"snapshot_id": snapshot})
    secret = rest.site.row(made)["undo_file"]
    assert secret in rest.site.share.files(made)
    accepted(rest, made)
    rest.refused(409, "POST", f"/volumes/{made}/action", {"os-undo_revert": {}}, who=OTHER)
    periodic.look(rest.site.worker)
    rest.site.end()
    assert secret not in rest.site.share.files(made)
    assert rest.site.share.content(rest.site.row(made)["active_file"]).get(1, 0) == 0


def test_linked_clones_stay_with_what_they_read(rest: Rest) -> None:
    specs = {"stillframe:linked_clone": "true"}
    rest.ok("POST", "/types", {"volume_type": {"name": "linked", "extra_specs": specs}}, who=ADMIN)
    made = rest.volume()
    snapshot = rest.ok("POST", "/snapshots", {"snapshot": {"volume_id": made}})["snapshot"]["id"]
    clone = rest.volume(snapshot_id=snapshot, volume_type="linked")
    for each in (made, clone):
        assert "full copy" in rest.refused(400, "POST", "/volume-transfers", {"transfer": {"volume_id": each}})


def test_a_clone_made_after_the_offer_keeps_the_volume(rest: Rest) -> None:
    """The acceptor could never delete what another project's volume reads."""
    specs = {"stillframe:linked_clone": "true"}
    rest.ok("POST", "/types", {"volume_type": {"name": "linked", "extra_specs": specs}}, who=ADMIN)
    made = rest.volume()
    snapshot = rest.ok("POST", "/snapshots", {"snapshot": {"volume_id": made}})["snapshot"]["id"]
    given = offer(rest, made)
    accept = f"/volume-transfers/{given['id']}/accept", {"accept": {"auth_key": given["auth_key"]}}
    wanted = {"volume": {"size": 1, "snapshot_id": snapshot, "volume_type": "linked"}}
    assert rest.ask("POST", "/volumes", wanted).status_code == 202
    rest.refused(409, "POST", *accept, who=OTHER)  # it is being made
    rest.site.end()
    assert "linked clones" in rest.refused(400, "POST", *accept, who=OTHER)
    assert rest.status(made) == "awaiting-transfer"


def test_the_acceptors_quota_counts(rest: Rest) -> None:
    made = rest.volume(size=3)
    given = offer(rest, made)
    rest.ok("PUT", "/os-quota-sets/other", {"quota_set": {"gigabytes": 2}}, who=ADMIN)
    body = {"accept": {"auth_key": given["auth_key"]}}
    rest.refused(413, "POST", f"/volume-transfers/{given['id']}/accept", body, who=OTHER)
    assert rest.status(made) == "awaiting-transfer"
    rest.ok("POST", f"/volume-transfers/{given['id']}/accept", body, who=MEMBER)  # back to the one who offered it


def test_a_volume_that_is_offered_is_neither_attached_nor_deleted(rest: Rest) -> None:
    made = rest.volume()
    offer(rest, made)
    rest.refused(400, "DELETE", f"/volumes/{made}")
    rest.refused(400, "POST", "/attachments", {"attachment": {"volume_uuid": made}})
    rest.act(made, "os-force_delete", {}, who=ADMIN)
    assert rest.ok("GET", "/volume-transfers")["transfers"] == []

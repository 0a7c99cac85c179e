"""The client to the image service: whose images, what content, how much of it, and every answer in our words."""

import gzip
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from stillframe import config
from stillframe.errors import (
    BadImage,
    Conflict,
    Forbidden,
    ImageNotUsable,
    ImageServiceNotConfigured,
    ImageServiceUnavailable,
    NotFound,
    QuotaExceeded,
    ShareUnavailable,
    StillframeError,
)
from stillframe.volumes.clients import glance_session
from stillframe.volumes.clients.glance import ImageClient, NewImage
from stillframe.volumes.clients.glance_session import DOCUMENT_LIMIT
from tests.unit.http_site import answer, in_order
from tests.unit.volumes.image_site import IMAGE, client, document

CONTENT = b"abcd"
SHA512 = hashlib.sha512(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
HASHED = {"os_hash_algo": "sha512", "os_hash_value": SHA512}
WANTED = NewImage(IMAGE, "of a volume", "raw", "bare", "demo")


def load(**options: Any) -> ImageClient:
    return ImageClient(config.load(overrides={("image", name): value for name, value in options.items()}))


def download(tmp_path: Path, *answers: Any, limit: int = 100) -> bytes:
    client(*answers)[0].download(IMAGE, "demo", tmp_path / "target", limit)
    return (tmp_path / "target").read_bytes()


# Configuration


def test_with_nothing_configured_it_is_said_what_to_configure() -> None:
    made = load()
    for call in (made.check_configured, lambda: made.show(IMAGE, "demo"), lambda: made.delete(IMAGE)):
        with pytest.raises(ImageServiceNotConfigured, match=r"section \[image\] needs endpoint, or auth_type") as told:
            call()
        assert told.value.status == 400


@pytest.mark.parametrize("missing", ["auth_url", "username", "password_file"])
def test_what_is_missing_for_signing_in_is_named(tmp_path: Path, missing: str) -> None:
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("p")
    options = {"auth_url": "http://k", "username": "u", "password_file": str(secret), missing: None}
    with pytest.raises(ImageServiceNotConfigured, match=missing):
        load(auth_type="password", **options).check_configured()


def test_an_endpoint_is_enough() -> None:
    load(endpoint="http://glance").check_configured()


_ODD_ENDPOINTS: tuple[Any, ...] = (None, [1], [{}])
_ODD_URLS: tuple[Any, ...] = (None, 1, "", [], "file:///etc/passwd", "//x", "no url", "http://[::1", "http:///v2")
ODD_CATALOGS: tuple[Any, ...] = (
    None,
    1,
    [1],
    [{}],
    [{"type": "image"}],
    [{"type": ["image"], "endpoints": []}],
    *([{"type": "image", "endpoints": odd}] for odd in _ODD_ENDPOINTS),
    *([{"type": "image", "endpoints": [{"interface": "public", "url": url}]}] for url in _ODD_URLS),
)


@pytest.mark.parametrize("catalog", ODD_CATALOGS, ids=str)
def test_a_catalog_that_is_none_is_keystones_fault(tmp_path: Path, catalog: Any) -> None:
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("p")
    options = {"auth_type": "password", "auth_url": "http://k", "username": "u", "password_file": str(secret)}
    settings = config.load(overrides={("image", name): value for name, value in {**options, "project_name": "p"}.items()})
    token = {"token": {"expires_at": "2999-01-01T00:00:00Z", "catalog": catalog}}
    site = in_order(answer(201, token, X__Subject__Token="t"))
    session = glance_session.ImageSession(settings.image)
    session._session().session.mount("http://", site)
    with pytest.raises(ImageServiceUnavailable, match=r"[Cc]atalog"):
        session.document("GET", "/v2/images")
    assert site.paths == ["POST /v3/auth/tokens"]


# Whose image


def visible(**more: Any) -> bool:
    """Tells whether the project ``demo``, which is a member of nothing, may see the image."""
    try:
        client(answer(200, document(**more)), answer(404))[0].show(IMAGE, "demo")
    except NotFound:
        return False
    return True


@pytest.mark.parametrize("visibility", ["private", "shared", "public", "community"])
@pytest.mark.parametrize(
    ("owner", "hidden"), [("demo", ()), (None, ()), ("other", ("private", "shared")), ("", ("private", "shared"))]
)
def test_an_image_is_seen_by_glances_own_rules(owner: str | None, hidden: tuple[str, ...], visibility: str) -> None:
    assert visible(owner=owner, visibility=visibility) == (visibility not in hidden)


def test_a_visibility_nobody_knows_hides_the_image() -> None:
    assert not visible(owner="other", visibility="cosmic")
    assert not visible(owner="other", visibility=None)


def test_a_shared_image_is_seen_by_its_members() -> None:
    shared = answer(200, document(owner="other"))
    made, site = client(shared, answer(200, {"member_id": "a/b", "status": "pending"}))
    assert made.show(IMAGE, "a/b").id == IMAGE
    assert site.paths[1] == f"GET /v2/images/{IMAGE}/members/a%2Fb"


def test_a_private_image_is_told_like_one_that_is_not_there_and_its_members_are_not_asked() -> None:
    made, site = client(answer(200, document(owner="other", visibility="private")))
    with pytest.raises(NotFound) as hidden:
        made.show(IMAGE, "demo")
    with pytest.raises(NotFound) as missing:
        client(answer(404, {"message": "No image found with ID"}))[0].show(IMAGE, "demo")
    assert (hidden.value.message, hidden.value.details) == (missing.value.message, missing.value.details)
    assert len(site.asked) == 1


def test_nothing_of_another_projects_image_is_downloaded(tmp_path: Path) -> None:
    made, site = client(answer(200, document(owner="other", visibility="private", **HASHED)), answer(200, CONTENT))
    with pytest.raises(NotFound):
        made.download(IMAGE, "demo", tmp_path / "target", 100)
    assert len(site.asked) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("image_id", ["", "x", "..", f"{IMAGE}/file", f"{IMAGE}?x=1", f"{IMAGE}\r\nX: 1", "é" * 36])
def test_an_id_that_is_none_is_never_sent(image_id: str) -> None:
    made, site = client()
    with pytest.raises(NotFound):
        made.show(image_id, "demo")
    assert site.asked == []


# Facts


def test_what_is_no_fact_of_glances_own_is_a_property() -> None:
    own = {"os_hidden": False, "tags": ["t"], "self": "/v2", "locations": [], "direct_url": "file:///secret", "stores": "fs"}
    shown = document(**own, os_distro="here", hw_disk_bus="scsi", os_glance_stage_host="internal", odd=7)
    assert dict(client(answer(200, shown))[0].show(IMAGE, "demo").properties) == {"os_distro": "here", "hw_disk_bus": "scsi"}


# Download


def test_content_arrives_in_a_file_for_its_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        assert download(tmp_path, answer(200, document(**HASHED)), answer(200, CONTENT)) == CONTENT
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "told",
    [
        HASHED,
        {"os_hash_algo": "sha256", "os_hash_value": hashlib.sha256(CONTENT).hexdigest()},
        {"checksum": MD5},
        {"os_hash_algo": "crc32", "os_hash_value": "1", "checksum": MD5},
        {"os_hash_algo": "shake_128", "os_hash_value": "1", "checksum": MD5},
        {"os_hash_algo": "sha512", "os_hash_value": "", "checksum": MD5},
        {**HASHED, "checksum": "wrong, and weaker"},
    ],
)
def test_content_is_held_against_the_best_hash_there_is(tmp_path: Path, told: dict[str, str]) -> None:
    assert download(tmp_path, answer(200, document(**told)), answer(200, CONTENT)) == CONTENT
    (tmp_path / "target").unlink()
    with pytest.raises(ImageNotUsable):
        download(tmp_path, answer(200, document(**told)), answer(200, b"abcx"))
    assert os.listdir(tmp_path) == []


def test_without_any_hash_nothing_is_downloaded(tmp_path: Path) -> None:
    made, site = client(answer(200, document()), answer(200, CONTENT))
    with pytest.raises(ImageNotUsable, match="no hash"):
        made.download(IMAGE, "demo", tmp_path / "target", 100)
    assert len(site.asked) == 1


@pytest.mark.parametrize("size", [5, 1 << 60, None])
def test_more_than_the_limit_is_not_asked_for(tmp_path: Path, size: int | None) -> None:
    made, site = client(answer(200, document(**HASHED, **{"size": size})), answer(200, CONTENT))
    with pytest.raises(ImageNotUsable):
        made.download(IMAGE, "demo", tmp_path / "target", 4)
    assert len(site.asked) == 1


def test_content_longer_than_it_was_said_to_be_is_cut_off_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glance_session, "CHUNK", 2)
    with pytest.raises(ImageNotUsable, match="longer"):
        download(tmp_path, answer(200, document(**HASHED)), answer(200, CONTENT * 1000), limit=4)
    assert os.listdir(tmp_path) == []


def test_content_longer_than_it_was_said_to_be_but_below_the_limit_is_refused(tmp_path: Path) -> None:
    longer = hashlib.sha512(CONTENT * 2).hexdigest()
    shown = document(os_hash_algo="sha512", os_hash_value=longer)
    with pytest.raises(ImageNotUsable):
        download(tmp_path, answer(200, shown), answer(200, CONTENT * 2))
    assert os.listdir(tmp_path) == []


def test_content_that_breaks_off_may_be_asked_for_again(tmp_path: Path) -> None:
    with pytest.raises(ImageServiceUnavailable, match="broke off"):
        download(tmp_path, answer(200, document(**HASHED)), answer(200, b"ab", Content__Length="4"))
    assert os.listdir(tmp_path) == []


def test_compressed_content_is_refused_unread(tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT)
    made, site = client(answer(200, document(**HASHED)), answer(200, packed, Content__Encoding="gzip"))
    with pytest.raises(ImageServiceUnavailable, match="compressed"):
        made.download(IMAGE, "demo", tmp_path / "target", 100)
    assert site.asked[1].headers["Accept-Encoding"] == "identity"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("status", ["queued", "saving", "importing", "uploading", "deactivated", "killed", "deleted"])
def test_only_an_active_image_is_downloaded(tmp_path: Path, status: str) -> None:
    with pytest.raises(ImageNotUsable, match=status):
        download(tmp_path, answer(200, document(**HASHED, status=status)))


def test_a_directory_that_is_gone_is_the_shares_trouble(tmp_path: Path) -> None:
    made, _ = client(answer(200, document(**HASHED)), answer(200, CONTENT))
    with pytest.raises(ShareUnavailable):
        made.download(IMAGE, "demo", tmp_path / "gone" / "target", 100)


# Create, upload, delete


def test_an_image_is_made_for_the_project_and_a_property_never_replaces_a_fact() -> None:
    properties = {"os_distro": "here", "owner": "other", "visibility": "public", "os_glance_x": "1", "locations": "file:///"}
    wanted = NewImage(IMAGE, "n", "qcow2", "bare", "demo", "private", True, properties)
    made, site = client(answer(201, {"id": IMAGE}))
    assert made.create(wanted) == IMAGE
    assert json.loads(site.bodies[0]) == {
        "id": IMAGE,
        "name": "n",
        "disk_format": "qcow2",
        "container_format": "bare",
        "visibility": "private",
        "protected": True,
        "owner": "demo",
        "os_distro": "here",
    }


def test_the_same_image_again_is_the_same_image() -> None:
    assert client(answer(409), answer(200, document(name="of a volume")))[0].create(WANTED) == IMAGE


@pytest.mark.parametrize("other", [{"owner": "other"}, {"name": "another"}, {"disk_format": "qcow2"}])
def test_an_id_that_was_given_to_another_image_is_refused(other: dict[str, str]) -> None:
    with pytest.raises(Conflict, match=IMAGE):
        client(answer(409), answer(200, document(**{"name": "of a volume", **other})))[0].create(WANTED)


def test_an_id_that_was_deleted_cannot_be_had_again() -> None:
    with pytest.raises(Conflict, match="or had"):
        client(answer(409), answer(404))[0].create(WANTED)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").write_bytes(CONTENT)
    return tmp_path / "source"


QUEUED = document(status="queued", size=None, **HASHED)


def test_a_file_is_sent_whole_with_its_length_and_compared_afterwards(source: Path) -> None:
    made, site = client(answer(200, QUEUED), answer(204), answer(200, document(**HASHED)))
    sent = made.upload(IMAGE, source)
    assert (sent.size, sent.sha512) == (4, SHA512)
    assert site.bodies[1] == CONTENT
    assert site.asked[1].headers["Content-Length"] == "4"
    assert site.asked[1].headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    "after",
    [
        {"os_hash_algo": "sha512", "os_hash_value": "0" * 128},
        {**HASHED, "size": 5},
        {"checksum": "0" * 32},
        {"os_hash_algo": "sha256", "os_hash_value": "0" * 64},
        {},
        {**HASHED, "status": "saving"},
    ],
)
def test_what_the_image_service_holds_afterwards_must_be_what_was_sent(source: Path, after: dict[str, Any]) -> None:
    with pytest.raises(ImageNotUsable):
        client(answer(200, QUEUED), answer(204), answer(200, document(**after)))[0].upload(IMAGE, source)


def test_another_hash_than_sha512_is_compared_too(source: Path) -> None:
    after = document(os_hash_algo="sha256", os_hash_value=hashlib.sha256(CONTENT).hexdigest())
    assert client(answer(200, QUEUED), answer(204), answer(200, after))[0].upload(IMAGE, source).sha512 == SHA512


def test_an_image_that_has_its_content_is_compared_and_nothing_sent(source: Path) -> None:
    made, site = client(answer(200, document(**HASHED)))
    assert made.upload(IMAGE, source).sha512 == SHA512
    assert len(site.asked) == 1
    with pytest.raises(ImageNotUsable):
        client(answer(200, document(os_hash_algo="sha512", os_hash_value="0" * 128)))[0].upload(IMAGE, source)


@pytest.mark.parametrize("status", ["saving", "importing", "deactivated"])
def test_an_image_somebody_else_is_filling_is_left_alone(source: Path, status: str) -> None:
    made, site = client(answer(200, document(status=status)))
    with pytest.raises(Conflict, match=status):
        made.upload(IMAGE, source)
    assert len(site.asked) == 1


def test_an_upload_that_is_refused_for_its_token_is_not_sent_again(source: Path) -> None:
    made, site = client(answer(200, QUEUED), answer(401))
    with pytest.raises(ImageServiceUnavailable):
        made.upload(IMAGE, source)
    assert len(site.asked) == 2


def test_a_link_is_never_uploaded(tmp_path: Path, source: Path) -> None:
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(BadImage):
        client()[0].upload(IMAGE, tmp_path / "link")


@pytest.mark.parametrize(
    ("shown", "complete"),
    [
        (document(**HASHED), True),
        (document(**HASHED, status="saving"), False),
        (document(os_hash_algo="sha512", os_hash_value="0" * 128), False),
        (document(os_hash_algo="sha256", os_hash_value=SHA512), False),
        (document(), False),
    ],
)
def test_an_image_is_complete_only_with_this_content(shown: dict[str, Any], complete: bool) -> None:
    assert client(answer(200, shown))[0].is_complete(IMAGE, SHA512) is complete


def test_an_image_that_is_gone_is_not_complete_but_silence_is_no_answer() -> None:
    assert not client(answer(404))[0].is_complete(IMAGE, SHA512)
    with pytest.raises(ImageServiceUnavailable):
        client(answer(503))[0].is_complete(IMAGE, SHA512)


def test_a_deletion_may_be_repeated() -> None:
    made, site = client(answer(200, document()), answer(204))
    made.delete(IMAGE)
    assert site.paths[-1] == f"DELETE /v2/images/{IMAGE}"
    client(answer(404))[0].delete(IMAGE)
    client(answer(200, document()), answer(404))[0].delete(IMAGE)


def test_protection_is_taken_only_from_an_image_that_never_got_its_content() -> None:
    made, site = client(answer(200, document(protected=True, status="queued")), answer(200, {}), answer(204))
    made.delete(IMAGE)
    assert json.loads(site.bodies[1]) == [{"op": "replace", "path": "/protected", "value": False}]
    made, site = client(answer(200, document(protected=True)))
    with pytest.raises(Conflict, match="protected"):
        made.delete(IMAGE)
    assert len(site.asked) == 1


# Answers


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, ImageServiceUnavailable),
        (302, ImageServiceUnavailable),
        (307, ImageServiceUnavailable),
        (400, ImageNotUsable),
        (401, ImageServiceUnavailable),
        (403, Forbidden),
        (409, Conflict),
        (410, NotFound),
        (413, QuotaExceeded),
        (415, ImageNotUsable),
        (429, ImageServiceUnavailable),
        (500, ImageServiceUnavailable),
        (502, ImageServiceUnavailable),
        (503, ImageServiceUnavailable),
    ],
)
def test_each_status_becomes_its_kind(source: Path, status: int, kind: type[StillframeError]) -> None:
    with pytest.raises(kind) as told:
        client(answer(200, QUEUED), answer(status, {"message": "in its words"}))[0].upload(IMAGE, source)
    assert type(told.value) is kind
    assert str(status) in told.value.message


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed(status: int) -> None:
    made, site = client(answer(status, None, Location="http://169.254.169.254/"), answer(200, document()))
    with pytest.raises(ImageServiceUnavailable, match="redirect"):
        made.show(IMAGE, "demo")
    assert len(site.asked) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"message": "the reason", "code": "400"}, "the reason"),
        (b"<html><head><title>400</title></head><body><h1>400 Bad</h1> the <b>reason</b></body></html>", "400 Bad the reason"),
        (b"two\nlines\x00\x1b[31m", "two lines [31m"),
        (b"", "no reason"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        ([], "[]"),
    ],
)
def test_its_own_words_are_kept_on_one_line(source: Path, body: Any, words: str) -> None:
    with pytest.raises(ImageNotUsable) as told:
        client(answer(200, QUEUED), answer(400, body))[0].upload(IMAGE, source)
    assert told.value.message == f"the image service answered 400: {words}"


def test_a_page_of_heads_without_an_end_is_read_in_no_time(source: Path) -> None:
    """The look for the end of each of them took the whole process seven minutes."""
    body = b"<head>" * (DOCUMENT_LIMIT // 6 - 10) + b"the reason"
    with pytest.raises(ImageNotUsable, match="answered 400: the reason"):
        client(answer(200, QUEUED), answer(400, body))[0].upload(IMAGE, source)


def test_words_without_end_are_cut(source: Path) -> None:
    with pytest.raises(ImageNotUsable) as told:
        client(answer(200, QUEUED), answer(400, b"x" * 100_000))[0].upload(IMAGE, source)
    assert len(told.value.message) < 500


@given(st.binary(max_size=200))
def test_an_answer_that_is_no_document_is_the_services_trouble(raw: bytes) -> None:
    try:
        json.loads(raw)
    except ValueError:
        if raw:
            with pytest.raises(ImageServiceUnavailable):
                client(answer(200, raw))[0].show(IMAGE, "demo")


def test_a_document_without_a_bottom_is_the_services_trouble(source: Path) -> None:
    with pytest.raises(ImageServiceUnavailable, match="not JSON"):
        client(answer(200, b"[" * 100_000))[0].show(IMAGE, "demo")
    with pytest.raises(ImageNotUsable):
        client(answer(200, QUEUED), answer(400, b"[" * 100_000))[0].upload(IMAGE, source)


@pytest.mark.parametrize(
    "shown",
    [
        [],
        "text",
        7,
        {},
        document(id="8" * 32),
        document(size="4"),
        {"images": []},
        document(min_disk="1"),
        document(min_ram=[]),
        document(virtual_size=1.5),
        document(size=-1),
        document(size=1 << 70),
        document(status=None),
        document(status={}),
        document(owner=["demo"]),
        document(visibility={}),
        document(disk_format=[]),
        document(os_hash_value=7),
    ],
)
def test_a_document_that_is_not_the_image_is_the_services_trouble_too(shown: Any) -> None:
    with pytest.raises(ImageServiceUnavailable, match="no image"):
        client(answer(200, shown))[0].show(IMAGE, "demo")


def test_a_document_without_end_is_not_read() -> None:
    with pytest.raises(ImageServiceUnavailable, match="more than"):
        client(answer(200, b"[" * (glance_session.DOCUMENT_LIMIT + 1)))[0].show(IMAGE, "demo")


@pytest.mark.parametrize(
    "error", [requests.ConnectionError("refused"), requests.Timeout("slow"), requests.exceptions.SSLError("who is this")]
)
def test_a_service_that_cannot_be_reached_may_be_asked_again(error: Exception) -> None:
    with pytest.raises(ImageServiceUnavailable, match="does not answer") as told:
        client(error)[0].show(IMAGE, "demo")
    assert told.value.may_retry

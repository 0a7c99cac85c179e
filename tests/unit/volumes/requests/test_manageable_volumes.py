"""Files on a share that are no volumes yet: what may be taken over, what is listed, what is not touched."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from stillframe.chain.image import Image
from stillframe.chain.names import base_name
from stillframe.db import operations, volume_types, volumes
from stillframe.db.engine import Database
from stillframe.errors import BadImage, BadRequest, FileInUse, NotFound, ServiceUnavailable, StillframeError
from stillframe.host import users
from stillframe.volumes.requests import manageable_volumes as manageable_volume_requests
from stillframe.volumes.storage.drivers import markers
from stillframe.volumes.storage.drivers.directory import DirectoryShare
from stillframe.volumes.worker import file_users
from stillframe.volumes.worker.context import WorkerContext
from tests.unit import builders
from tests.unit.builders import GIB, OTHER_VOLUME, SHARE, VOLUME, context
from tests.unit.host.headers import CLUSTER, Header
from tests.unit.volumes import fakes
from tests.unit.volumes.memory_share import File

ADMIN, HOST = context("admin"), f"here@local#{SHARE}"
FOREIGN = "from-elsewhere.qcow2"


@pytest.fixture
def worker(database: Database, tmp_path: Path) -> WorkerContext:
    with database.write() as connection:
        builders.volume_row(connection)
    share = fakes.share()
    share.entries[FOREIGN] = File(Image(FOREIGN, "qcow2", 2 * GIB))
    return fakes.worker(database, tmp_path, share)


def manage(worker: WorkerContext, name: str = FOREIGN, host: str = HOST, format_: str | None = None) -> str:
    return manageable_volume_requests.manage(worker, ADMIN, {"host": host, "source_name": name, "format": format_, "name": "n"})


def test_a_type_of_another_backend_is_refused(worker: WorkerContext) -> None:
    """Its volume lies where the type's clones and copies cannot be made."""
    specs = {"volume_backend_name": "elsewhere"}
    with worker.database.write() as connection:
        volume_types.insert(
            connection, {"id": OTHER_VOLUME, "name": "fast", "description": None, "is_public": True, "extra_specs": specs}
        )
    with pytest.raises(BadRequest, match="asks for another backend than local"):
        manageable_volume_requests.manage(worker, ADMIN, {"host": HOST, "source_name": FOREIGN, "volume_type": "fast"})
    assert FOREIGN in fakes.memory(worker).entries


def header(worker: WorkerContext, **values: object) -> None:
    entry = fakes.memory(worker).entries[FOREIGN]
    entry.image = replace(entry.image, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", [HOST, "here@local", "elsewhere@local"])
def test_a_file_that_stands_alone_becomes_a_volume(worker: WorkerContext, host: str) -> None:
    made = manage(worker, host=host)
    with worker.database.read() as connection:
        row = volumes.get(connection, made, None)
        (operation,) = operations.unfinished(connection, "volumes")
    assert row is not None
    assert (row["size"], row["status"], row["format"], row["name"]) == (2, "creating", "qcow2", "n")
    assert operation["plan"][0]["args"] == {"name": FOREIGN, "to": base_name(made)}


def test_a_raw_file_is_taken_over_as_what_it_is_said_to_be(worker: WorkerContext) -> None:
    header(worker, format="raw")
    with pytest.raises(BadImage):
        manage(worker)
    made = manage(worker, format_="raw")
    with worker.database.read() as connection:
        row = volumes.get(connection, made, None)
    assert row is not None
    assert (row["format"], row["base_format"]) == ("raw", "raw")


@pytest.mark.parametrize("name", ["nothing", "../x", "/etc/passwd", ".share-id", ".tmp.x", "", "a/b"])
def test_what_is_no_file_of_the_share_is_not_found(worker: WorkerContext, name: str) -> None:
    with pytest.raises(NotFound):
        manage(worker, name)


def test_a_file_of_ours_is_refused(worker: WorkerContext) -> None:
    with pytest.raises(BadRequest, match=f"a file of volume {VOLUME} already"):
        manage(worker, base_name(VOLUME))


def test_a_file_of_a_volume_nobody_knows_may_come_back(worker: WorkerContext) -> None:
    fakes.memory(worker).entries[base_name(OTHER_VOLUME)] = File(Image(base_name(OTHER_VOLUME), "qcow2", GIB))
    assert manage(worker, base_name(OTHER_VOLUME)) != OTHER_VOLUME


def test_a_file_of_a_chain_is_refused(worker: WorkerContext) -> None:
    header(worker, backing=base_name(OTHER_VOLUME), backing_format="qcow2")
    with pytest.raises(BadImage, match="stands alone"):
        manage(worker)
    header(worker, backing=None, backing_format=None)
    above = base_name(OTHER_VOLUME)
    fakes.memory(worker).entries[above] = File(Image(above, "qcow2", 2 * GIB, FOREIGN, "qcow2"))
    with pytest.raises(FileInUse, match=f"{above} is based on it"):
        manage(worker)


def test_a_file_that_somebody_uses_is_refused_and_listed_with_who(worker: WorkerContext) -> None:
    share, compute = fakes.memory(worker), fakes.compute(worker)
    golden = File(Image("golden", "qcow2", GIB, FOREIGN, "qcow2"))
    users: dict[str, Callable[[], object]] = {
        "a program has it open": lambda: share.opened.add(FOREIGN),
        f"description of server {OTHER_VOLUME} names it": lambda: compute.named.update({FOREIGN: [OTHER_VOLUME]}),
        "golden is based on it": lambda: share.entries.update(golden=golden),
    }
    for words, use in users.items():
        use()
        with pytest.raises(FileInUse, match=words):
            manage(worker)
        (entry,) = [
            each
            for each in manageable_volume_requests.manageable(worker, ADMIN, HOST)
            if each["reference"] == {"source-name": FOREIGN}
        ]
        assert not entry["safe_to_manage"]
        assert words in entry["reason_not_safe"]
    assert FOREIGN in share.entries


def test_where_compute_does_not_answer_nobody_knows_who_uses_a_file(worker: WorkerContext) -> None:
    fakes.compute(worker).silent = True
    with pytest.raises(ServiceUnavailable):
        manage(worker)


@pytest.mark.parametrize("size", [GIB - 512, GIB + 1, 1])
def test_a_file_of_no_whole_gib_is_refused(worker: WorkerContext, size: int) -> None:
    header(worker, size=size)
    with pytest.raises(BadImage, match="no whole GiB"):
        manage(worker)


def test_a_backend_nobody_has_is_refused(worker: WorkerContext) -> None:
    for host in ("here", "here@", "here@golden", "here@local#/elsewhere"):
        with pytest.raises(BadRequest, match="get_pools"):
            manage(worker, host=host)


def test_every_refusal_changes_nothing(worker: WorkerContext) -> None:
    for name in (base_name(VOLUME), "nothing"):
        with pytest.raises(StillframeError):
            manage(worker, name)
    with worker.database.read() as connection:
        assert len(volumes.list_all(connection)) == 1
        assert operations.unfinished(connection, "volumes") == []


def test_files_are_listed_with_what_speaks_against_them(worker: WorkerContext) -> None:
    share = fakes.memory(worker)
    share.entries["chained"] = File(Image("chained", "qcow2", GIB, FOREIGN, "qcow2"))
    share.entries["odd"] = File(Image("odd", "qcow2", GIB + 1))
    share.entries["raw"] = File(Image("raw", "raw", GIB))
    share.documents[f"volume-{VOLUME}.record"] = {"version": 1}
    share.documents[f"volume-{VOLUME}.info"] = {"active": "x"}
    share.entries[".tmp.x"] = File(Image(".tmp.x", "qcow2", GIB))
    found = {entry["reference"]["source-name"]: entry for entry in manageable_volume_requests.manageable(worker, ADMIN, HOST)}
    assert set(found) == {FOREIGN, "chained", "odd", "raw", base_name(VOLUME)}
    assert found[base_name(VOLUME)]["cinder_id"] == VOLUME
    assert [name for name, entry in found.items() if entry["safe_to_manage"]] == []
    assert found[FOREIGN]["reason_not_safe"] == f"{FOREIGN} cannot be taken over: chained is based on it"
    assert f"odd has {GIB + 1} bytes, which are no whole GiB" in found["odd"]["reason_not_safe"]
    assert found["chained"]["reason_not_safe"].startswith(f"chained is backed by {FOREIGN};")
    share.entries.pop("chained")
    again = {entry["reference"]["source-name"]: entry for entry in manageable_volume_requests.manageable(worker, ADMIN, HOST)}
    assert (again[FOREIGN]["safe_to_manage"], again[FOREIGN]["size"]) == (True, 2)


def test_a_list_opens_every_file_a_few_times_however_many_there_are(
    worker: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who uses what is looked for once a request: programs once, the header of each file once for all names."""
    path = tmp_path / "many"
    path.mkdir()
    pool = SimpleNamespace(share=lambda: DirectoryShare(path, markers.prepare(path), 0))
    monkeypatch.setattr(manageable_volume_requests, "find_pool", lambda _worker, _host: pool)
    opened, looked, open_, programs = [], [], os.open, users.programs
    monkeypatch.setattr(os, "open", lambda *words, **more: opened.append(words) or open_(*words, **more))  # type: ignore[func-returns-value]
    monkeypatch.setattr(users, "programs", lambda wanted: looked.append(wanted) or programs(wanted))  # type: ignore[func-returns-value]
    opens = []
    for number in range(60):
        (path / f"foreign-{number}").write_bytes(Header(size=GIB + 512, l1_entries=3).start().ljust(4 * CLUSTER, b"\0"))
        if number in (19, 59):
            opened.clear()
            found = manageable_volume_requests.manageable(worker, ADMIN, HOST)
            assert ["no whole GiB" in each["reason_not_safe"] for each in found] == [True] * (number + 1)
            opens.append(len(opened))
    assert len(looked) == 2
    assert opens[1] <= 3 * opens[0] <= 60 * 12


def test_a_page_of_the_list_looks_at_its_own_files_only(worker: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    share, asked = fakes.memory(worker), []
    for number in range(5):
        share.entries[f"image-{number}"] = File(Image(f"image-{number}", "qcow2", GIB))
    monkeypatch.setattr(share, "check_whole", lambda name, _format, _seconds: asked.append(name))
    found = manageable_volume_requests.manageable(worker, ADMIN, HOST, offset=2, limit=2)
    assert [each["reference"]["source-name"] for each in found] == ["image-1", "image-2"] == asked


def test_a_list_looks_into_all_its_files_for_as_long_as_a_request_into_one(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    share, given, clock = fakes.memory(worker), list[float](), [100.0]
    for number in range(3):
        share.entries[f"image-{number}"] = File(Image(f"image-{number}", "qcow2", GIB))

    def look(_name: str, _format: str, seconds: float) -> None:
        given.append(seconds)
        clock[0] += 10.0

    monkeypatch.setattr(share, "check_whole", look)
    monkeypatch.setattr(manageable_volume_requests, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    manageable_volume_requests.manageable(worker, ADMIN, HOST)
    assert given[:3] == [15.0, 5.0, 0.0]


def test_a_file_is_taken_over_only_when_every_user_is_known(worker: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """A saved memory that cannot be read may need it. What is a volume's own is told by its attachment."""

    def named(_directory: Path, sure: bool = False) -> dict[str, list[str]]:
        if sure:
            raise ServiceUnavailable("a saved memory cannot be read")
        return {}

    monkeypatch.setattr(worker.compute, "named_files", named)
    with pytest.raises(ServiceUnavailable, match="saved memory"):
        manage(worker)
    assert file_users.naming(worker, fakes.memory(worker), VOLUME) == []

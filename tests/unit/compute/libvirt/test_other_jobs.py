"""Who is at work on a server is seen before anything is frozen, and whether a switch has begun."""

import threading
from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.libvirt import other_jobs, servers
from stillframe.db.engine import Database
from stillframe.errors import AnotherJob
from stillframe.host import domain_jobs, files
from tests.unit.builders import SERVER
from tests.unit.compute import fakes

OVERLAYS = ["/srv/a", "/srv/b"]


@pytest.mark.parametrize(("locked", "snapshot", "begun"), [("b", False, True), ("", True, True), ("", False, False)])
def test_a_switch_has_begun_when_qemu_or_libvirt_is_at_it(
    monkeypatch: pytest.MonkeyPatch, locked: str, snapshot: bool, begun: bool
) -> None:
    monkeypatch.setattr(other_jobs, "PROBE_SECONDS", 60.0)
    monkeypatch.setattr(files, "is_locked", lambda _share, name: name == locked)
    monkeypatch.setattr(domain_jobs, "is_snapshot", lambda _domain: snapshot)
    assert other_jobs.has_begun(None, OVERLAYS) is begun


def test_a_libvirt_that_is_silent_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    monkeypatch.setattr(other_jobs, "PROBE_SECONDS", 0.0)
    monkeypatch.setattr(files, "is_locked", lambda _share, _name: False)
    monkeypatch.setattr(domain_jobs, "is_snapshot", lambda _domain: go.wait())
    assert not other_jobs.has_begun(None, OVERLAYS)
    go.set()


@pytest.mark.parametrize("active", [True, False])
def test_another_programs_job_is_a_refusal_that_names_it(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, active: bool
) -> None:
    xml = fakes.domain_xml(fakes.disk_xml("vda", "/srv/x"))
    there = fakes.worker(database, tmp_path, [fakes.view(xml, xml, 1 if active else 5, active)], monkeypatch)
    asked: list[Any] = []

    def find(_domain: Any, targets: tuple[str, ...]) -> str:
        asked.append(targets)
        return "a backup job"

    monkeypatch.setattr(domain_jobs, "find", find)
    server = servers.look(there, SERVER)
    if active:
        with pytest.raises(AnotherJob, match=f"a backup job on server {SERVER}"):
            other_jobs.refuse_if_at_work(there, server, ("vda",))
    else:
        other_jobs.refuse_if_at_work(there, server, ("vda",))
    assert asked == [("vda",)] * active

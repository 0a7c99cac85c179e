"""Which other program works on the server before and while a set is switched, and whether the switch has begun."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stillframe.compute.libvirt.servers import Server
from stillframe.compute.worker.context import WorkerContext
from stillframe.errors import AnotherJob, StillframeError
from stillframe.host import domain_jobs, files

PROBE_SECONDS = 0.1


def has_begun(domain: Any, overlays: Sequence[str]) -> bool:
    """Tells whether the switch to ``overlays``, paths, is under way: QEMU has one open, or libvirt says that it takes a
    snapshot. Answers within about PROBE_SECONDS; no answer means that somebody else has libvirt's lock."""
    if _any_is_open(overlays):
        return True
    found: list[bool] = []

    def ask() -> None:
        try:
            found.append(domain_jobs.is_snapshot(domain))
        except StillframeError:
            return

    asking = threading.Thread(target=ask, daemon=True, name="switch-probe")
    asking.start()
    asking.join(PROBE_SECONDS)
    return found == [True] or _any_is_open(overlays)


def _any_is_open(overlays: Sequence[str]) -> bool:
    return any(files.is_locked(path.parent, path.name) for path in map(Path, overlays))


def refuse_if_at_work(worker: WorkerContext, server: Server, targets: tuple[str, ...]) -> None:
    """Raises AnotherJob when another program has a job on the server, or a block job on one of the disks ``targets``."""
    if not server.view.active:
        return
    found = domain_jobs.find(worker.hypervisor.domain(server.id), targets)
    if found is not None:
        raise AnotherJob(
            f"another program has {found} on server {server.id}: a snapshot would have to wait for its end, and nobody"
            " freezes a guest for that long"
        )

"""Native snapshots that are taken while the guest is frozen (native_mode = frozen): scratch overlays need no room then.

Block storage is asked for all volumes at the same time, inside the window and before the disks in files are switched, so that
everything can still be taken back. The guest does not wait for what is not done in time.
"""

import threading
from collections.abc import Callable
from typing import Any

from stillframe import labels
from stillframe.compute.operations.snapshot_intents import AssistedSnapshot, NativeDisk, ServerSnapshot
from stillframe.compute.quiesce import bounded
from stillframe.errors import QuiesceRefused, StepFailed, StillframeError
from stillframe.journal.failpoints import reached
from stillframe.journal.operation import Document

# In the metadata of a native snapshot.
SET_KEY, LEVEL_KEY, TOKEN_KEY = labels.SET, labels.LEVEL, labels.REQUEST
LOOK_SECONDS = 0.05  # between two looks at a snapshot while the guest is frozen
NOT_OF_ONE_INSTANT = (
    "the snapshots of volumes that block storage takes by itself are not of the same instant as the others, because the guest"
    " was not frozen while they were taken (native_mode is frozen)"
)
LATE = (
    "block storage did not take its snapshots within freeze_deadline_seconds, so the guest was thawed before: the volumes of"
    " the set are not of one instant"
)


def wanted(asked: AssistedSnapshot, token: str, level: str | None) -> Document:
    """Returns what block storage is asked for; ``level`` is the volume's consistency where it is known."""
    metadata = {**asked.metadata, SET_KEY: asked.set_id, TOKEN_KEY: token, **({LEVEL_KEY: level} if level else {})}
    return {"name": asked.name, "description": asked.description, "metadata": metadata}


class Snapshots:
    """The snapshots of one attempt. ``documents`` has by volume id what block storage answered last, ``errors`` why it has
    refused."""

    def __init__(self, storage: Any, asked: AssistedSnapshot, token: str) -> None:
        self._storage = storage
        self._natives = asked.natives
        self._wanted = wanted(asked, token, None)
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._take, args=(disk,), daemon=True) for disk in asked.natives]
        self.documents: dict[str, Document] = {}
        self.errors: dict[str, StillframeError] = {}

    def take(self, seconds: float) -> bool:
        """Asks for all, and returns whether each is available within that time. False at once when one is refused."""
        for thread in self._threads:
            thread.start()
        self._ended.wait(seconds)
        return len(self.documents) == len(self._natives) and all(map(_is_available, self.documents.values()))

    def finish(self) -> None:
        """Waits until every request that is under way was answered; none is made any more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def evidence(self) -> Document:
        """Returns by volume id the ids of the ``snapshots``, and the ``errors``."""
        ids = {volume_id: found["id"] for volume_id, found in self.documents.items()}
        return {"snapshots": ids, "errors": {volume_id: error.message for volume_id, error in self.errors.items()}}

    def _take(self, disk: NativeDisk) -> None:
        try:
            found = self._storage.create_snapshot(disk.volume_id, self._wanted)
            self.documents[disk.volume_id] = found
            while found["status"] == "creating" and not self._stop.wait(LOOK_SECONDS):
                found = self._storage.snapshot(found["id"]) or {**found, "status": "error", "fault": "it is gone"}
                self.documents[disk.volume_id] = found
            if found["status"] == "error":
                raise StepFailed(str(found.get("fault") or "block storage could not take the snapshot"))
        except StillframeError as error:
            self.errors[disk.volume_id] = error
        except Exception as error:
            self.errors[disk.volume_id] = StepFailed(f"block storage was asked in vain ({type(error).__name__})")
        if self.errors or all(map(self._is_done, self._natives)):
            self._ended.set()

    def _is_done(self, disk: NativeDisk) -> bool:
        return _is_available(self.documents.get(disk.volume_id, {"status": ""}))


def _is_available(found: Document) -> bool:
    return bool(found["status"] == "available")


class SwitchWithSnapshots:
    """What is done inside the window of such a set: block storage's snapshots, then ``switch``, libvirt's call. ``seconds``
    says how long the guest may be kept for the former."""

    def __init__(self, snapshots: Snapshots, switch: Callable[[], None], required: bool, seconds: float) -> None:
        self._snapshots = snapshots
        self._switch = switch
        self._required = required
        self._seconds: Callable[[], float] = lambda: seconds

    def within(self, seconds: Callable[[], float]) -> "SwitchWithSnapshots":
        """Bounds the snapshots by what is left of a window, asked when it has begun."""
        self._seconds = seconds
        return self

    def __call__(self) -> None:
        """Raises Late when block storage has refused or was not done in time, with the disks as they were."""
        if not self._snapshots.take(self._seconds()):
            raise bounded.Late(self._without_guest, LATE)
        reached("quiesce/native")
        self._switch()

    def _without_guest(self) -> None:
        """Nobody is frozen any more. What was refused ends the set; what only lasted is kept, unless freezing is required."""
        self._snapshots.finish()
        for volume_id, error in self._snapshots.errors.items():
            raise StepFailed(f"block storage took no snapshot of volume {volume_id}: {error.message}") from error
        if self._required:
            raise QuiesceRefused(
                "block storage did not take its snapshots within freeze_deadline_seconds: the guest was thawed, and nothing is"
                " kept"
            )
        bounded.patiently(self._switch)


def are_in_window(asked: ServerSnapshot) -> bool:
    """Tells whether the set's native snapshots are taken while the guest is frozen."""
    return bool(asked.active and asked.natives and not asked.scratched)

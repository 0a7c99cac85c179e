"""The worker's side of the watchdog: armed before a freeze, disarmed after a confirmed thaw."""

import os
import threading
from dataclasses import replace
from pathlib import Path

from stillframe.compute.quiesce import record as freeze_record
from stillframe.compute.quiesce.record import FreezeRecord
from stillframe.compute.quiesce.thaw import try_thaw
from stillframe.errors import Conflict, ServiceUnavailable
from stillframe.host.hypervisor import Hypervisor
from stillframe.host.processes import Helper

ANSWER_SECONDS = 5.0


class Guard:
    """Keeps one watchdog process running and talks to it."""

    def __init__(self, connection: Hypervisor, private: Path | None, directory: Path, log: Path) -> None:
        """``private`` is the directory of our own libvirt daemon, which the watchdog may then start again."""
        self._hypervisor = connection
        self._private = private
        self._directory = directory
        self._log = log
        self._helper: Helper | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Starts the watchdog unless it runs. Raises ServiceUnavailable when it does not come up."""
        with self._lock:
            self._running()

    def arm(self, domain: str, operation: str, seconds: float, rcu_expedited: str | None) -> FreezeRecord:
        """Makes "may be frozen" durable and gives it to the watchdog, which thaws after ``seconds`` at the latest, and then
        puts the guest's kernel setting back to ``rcu_expedited`` unless that is None.

        Raises Conflict while an earlier freeze of this guest is not known to be over, ServiceUnavailable when no
        watchdog can be armed: then nothing may be frozen.
        """
        earlier = freeze_record.read(self._directory, domain)
        if earlier is not None and not try_thaw(self._hypervisor, self._directory, earlier):
            raise Conflict(
                f"server {domain} may still be frozen by operation {earlier.operation}; the watchdog thaws it, repeat then"
            )
        record = FreezeRecord(domain, operation, freeze_record.boot_seconds() + seconds, os.getpid(), rcu_expedited)
        try:
            self._register(record)
        except ServiceUnavailable:
            freeze_record.clear(self._directory, record)
            raise
        return record

    def arm_suspend(self, domain: str, operation: str, seconds: float) -> FreezeRecord:
        """As ``arm`` for a guest that is about to be suspended: the watchdog resumes it after ``seconds`` at the latest, or
        when this worker dies."""
        earlier = freeze_record.read(self._directory, domain)
        if earlier is not None and not try_thaw(self._hypervisor, self._directory, earlier):
            raise Conflict(
                f"server {domain} may still be frozen by operation {earlier.operation}; the watchdog thaws it, repeat then"
            )
        deadline = freeze_record.boot_seconds() + seconds
        record = FreezeRecord(domain, operation, deadline, os.getpid(), None, suspended=True)
        try:
            self._register(record)
        except ServiceUnavailable:
            freeze_record.clear(self._directory, record)
            raise
        return record

    def resume(self, domain: str) -> None:
        """Resumes a guest that a worker suspended and left suspended. Raises Conflict when that cannot be done now."""
        left = freeze_record.read(self._directory, domain)
        if left is not None and left.suspended and not self.try_thaw(left):
            raise Conflict(
                f"the end of a merge (operation {left.operation}) still keeps server {domain} suspended; the watchdog resumes"
                " it within seconds, repeat then"
            )

    def renew(self, record: FreezeRecord, seconds: float) -> FreezeRecord:
        """Moves the deadline to ``seconds`` from now, before the freeze begins. Raises ServiceUnavailable; the record stays,
        because the guest may have been changed already."""
        later = replace(record, deadline=freeze_record.boot_seconds() + seconds)
        self._register(later)
        return later

    def wait_for(self, record: FreezeRecord, seconds: float) -> None:
        """Has the watchdog thaw after ``seconds`` from now, unless it is disarmed. Not durable: it counts while both live. A
        watchdog that takes over goes by the record; the death of the worker counts by itself. Raises ServiceUnavailable."""
        with self._lock:
            self._running().ask(f"wait {record.domain} {seconds:g}", ANSWER_SECONDS)

    def _register(self, record: FreezeRecord) -> None:
        freeze_record.write(self._directory, record)
        with self._lock:
            answer = self._running().ask(f"arm {record.domain}", ANSWER_SECONDS)
        if answer != f"armed {record.domain}":
            raise ServiceUnavailable(f"the watchdog did not take server {record.domain}, which was not frozen: {answer}")

    def disarm(self, record: FreezeRecord) -> None:
        """After a thaw that the agent confirmed: removes the record and releases the watchdog."""
        freeze_record.clear(self._directory, record)
        with self._lock:
            if self._helper is not None and self._helper.alive:
                self._helper.ask(f"disarm {record.domain}", ANSWER_SECONDS)

    def pending(self, domain: str) -> FreezeRecord | None:
        """Returns the record of a guest that may be frozen, or None."""
        return freeze_record.read(self._directory, domain)

    def try_thaw(self, record: FreezeRecord) -> bool:
        """Makes one attempt of our own; the watchdog continues in any case."""
        return try_thaw(self._hypervisor, self._directory, record)

    def close(self) -> None:
        """Releases the watchdog; it ends when every guest it watches is thawed."""
        with self._lock:
            if self._helper is not None:
                self._helper.close()

    def _running(self) -> Helper:
        if self._helper is None or not self._helper.alive:
            arguments = [self._hypervisor.uri, str(self._private or ""), str(self._directory), str(self._log)]
            self._helper = Helper("stillframe.compute.quiesce.watchdog", arguments)
            self._helper.ask("ready", 30.0)
        return self._helper

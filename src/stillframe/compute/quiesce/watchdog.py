"""The watchdog process: thaws a guest at the deadline, or when the worker that froze it dies; again until it is thawed.

It is started by the compute worker and outlives it. It reads freeze records and speaks to libvirt; it knows no database, no
broker and no share. Its worker sends commands to its standard input: ``arm <domain>`` is answered ``armed <domain>`` once the
watchdog has the record, ``disarm <domain>`` likewise; ``wait <domain> <seconds>`` moves the deadline to that many seconds from
now. The end of the input means that the worker is dead.
"""

import logging
import os
import select
import sys
import threading
from pathlib import Path

from stillframe.compute.quiesce import record as freeze_record
from stillframe.compute.quiesce.record import FreezeRecord
from stillframe.compute.quiesce.thaw import try_thaw
from stillframe.host import private_libvirt
from stillframe.host.hypervisor import Hypervisor
from stillframe.printable.output import OneLine

LOG = logging.getLogger(__name__)
AGAIN_SECONDS = 0.5
LOOK_SECONDS = 5.0
OVERDUE_SECONDS = 2.0


class Watchdog:
    """Watches the records of one worker, and those that dead workers left."""

    def __init__(self, connection: Hypervisor, directory: Path) -> None:
        self._hypervisor = connection
        self._directory = directory
        self._held: dict[str, FreezeRecord] = {}
        self._until: dict[str, float] = {}  # what a worker said later than its record, by the same clock
        self._thawing: set[FreezeRecord] = set()
        self._worker_lives = True

    def run(self) -> None:
        """Serves until the worker is gone and every guest it froze is thawed."""
        rest = b""
        self._adopt_orphans()
        while self._worker_lives or self._held or self._thawing:
            if self._worker_lives:
                ready, _, _ = select.select([sys.stdin], [], [], self._until_next())
                if ready:
                    rest = self._listen(rest)
            else:
                threading.Event().wait(min(self._until_next(), AGAIN_SECONDS))
            self._thaw_due()

    def _listen(self, rest: bytes) -> bytes:
        piece = os.read(sys.stdin.fileno(), 4096)
        if not piece:
            LOG.warning("the worker is gone; %d guests may be frozen", len(self._held))
            self._worker_lives = False
            return b""
        *lines, left = (rest + piece).split(b"\n")
        for line in lines:
            word, _, domain = line.decode().partition(" ")
            sys.stdout.write(self._obey(word, domain) + "\n")
            sys.stdout.flush()
        return left

    def _obey(self, word: str, domain: str) -> str:
        if word == "ready":
            self._hypervisor.connection()
            return "ready"
        if word == "disarm":
            self._held.pop(domain, None)
            self._until.pop(domain, None)
            return f"disarmed {domain}"
        if word == "wait":
            domain, _, seconds = domain.partition(" ")
            self._until[domain] = freeze_record.boot_seconds() + float(seconds)
            return f"waits {domain}"
        record = freeze_record.read(self._directory, domain)
        if word != "arm" or record is None:
            return f"refused {domain}"
        self._held[domain] = record
        self._until.pop(domain, None)
        return f"armed {domain}"

    def _until_next(self) -> float:
        waits = [self._deadline(record) - freeze_record.boot_seconds() for record in self._held.values()]
        return max(0.0, min([LOOK_SECONDS, *waits]))

    def _deadline(self, record: FreezeRecord) -> float:
        return self._until.get(record.domain, record.deadline)

    def _thaw_due(self) -> None:
        self._adopt_orphans()
        now = freeze_record.boot_seconds()
        for domain, record in list(self._held.items()):
            if not self._worker_lives or self._deadline(record) <= now:
                del self._held[domain]
                self._thawing.add(record)
                threading.Thread(target=self._thaw, args=(record,), daemon=True).start()

    def _thaw(self, record: FreezeRecord) -> None:
        LOG.warning("thawing server %s: the deadline passed or its worker is gone", record.domain)
        while not try_thaw(self._hypervisor, self._directory, record):
            threading.Event().wait(AGAIN_SECONDS)
        LOG.warning("server %s is thawed", record.domain)
        self._thawing.discard(record)

    def _adopt_orphans(self) -> None:
        """Takes up what dead workers left; a record long overdue is taken up whoever holds it."""
        for record in freeze_record.read_all(self._directory):
            orphan = not Path(f"/proc/{record.worker}").exists()
            overdue = freeze_record.boot_seconds() > record.deadline + OVERDUE_SECONDS
            if (orphan or overdue) and record not in self._thawing and self._held.get(record.domain) != record:
                self._thawing.add(record)
                threading.Thread(target=self._thaw, args=(record,), daemon=True).start()


def main() -> None:
    """``python -m stillframe.compute.quiesce.watchdog URI PRIVATE_LIBVIRT_OR_EMPTY DIRECTORY LOGFILE``."""
    uri, private, directory, log = sys.argv[1:5]
    handler = logging.FileHandler(log)
    handler.setFormatter(OneLine("%(asctime)s %(process)d %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    connection = private_libvirt.connect(Path(private)) if private else Hypervisor(uri)
    Watchdog(connection, Path(directory)).run()


if __name__ == "__main__":
    main()

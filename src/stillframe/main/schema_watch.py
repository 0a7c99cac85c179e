"""Ends a service when somebody upgrades the database under it, because its queries were written for other tables."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from stillframe.db import migrations
from stillframe.db.engine import Database
from stillframe.errors import SchemaMismatch, StillframeError

LOG = logging.getLogger(__name__)
EVERY_SECONDS = 10.0


class Stopped(Protocol):
    @property
    def because(self) -> Callable[[StillframeError], None]: ...


@contextmanager
def watching(database: Database, stop: Stopped, every: float = EVERY_SECONDS) -> Iterator[None]:
    """Checks the schema every ``every`` seconds while the block runs, and ends the service when the schema is another one."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every):
            error = mismatch(database)
            if error is not None:
                LOG.critical("this service ends: %s", error.message)
                stop.because(error)
                return

    thread = threading.Thread(target=watch, name="schema-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def mismatch(database: Database) -> SchemaMismatch | None:
    """Says what is wrong with the tables; None: nothing. A database that does not answer is not taken for one with other
    tables."""
    try:
        migrations.check(database)
    except SchemaMismatch as error:
        return error
    except Exception:
        LOG.debug("the schema could not be read", exc_info=True)
    return None

"""Deletes operations that ended long ago, a few at a time."""

import logging
from datetime import timedelta

from stillframe.db import finished
from stillframe.db.engine import Database

LOG = logging.getLogger(__name__)
AT_ONCE = 500  # others who write wait for it


def look(database: Database, days: int) -> int:
    """Called by the timer. Deletes what ended more than ``days`` ago (0: nothing), at most ``AT_ONCE`` operations; returns how
    many it looked at."""
    if days <= 0:
        return 0
    with database.write() as connection:
        found = finished.prune(connection, timedelta(days=days), AT_ONCE)
    if found:
        LOG.debug("%d operations ended more than %d days ago", found, days)
    return found

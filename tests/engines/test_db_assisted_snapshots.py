"""``tests.unit.db.test_assisted_snapshots`` on PostgreSQL and MariaDB."""

from tests.unit.db.test_assisted_snapshots import *  # noqa: F403

"""``tests.unit.db.test_snapshot_policies`` on PostgreSQL and MariaDB."""

from tests.unit.db.test_snapshot_policies import *  # noqa: F403

"""``tests.unit.db.test_queries`` on PostgreSQL and MariaDB."""

from tests.unit.db.test_queries import *  # noqa: F403

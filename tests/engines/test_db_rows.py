"""``tests.unit.db.test_rows`` on PostgreSQL and MariaDB."""

from tests.unit.db.test_rows import *  # noqa: F403

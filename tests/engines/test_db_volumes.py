"""``tests.unit.db.test_volumes`` on PostgreSQL and MariaDB."""

from tests.unit.db.test_volumes import *  # noqa: F403

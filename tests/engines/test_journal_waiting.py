"""``tests.unit.journal.test_waiting`` on PostgreSQL and MariaDB."""

from tests.unit.journal.test_waiting import *  # noqa: F403

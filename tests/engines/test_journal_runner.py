"""``tests.unit.journal.test_runner`` on PostgreSQL and MariaDB."""

from tests.unit.journal.test_runner import *  # noqa: F403

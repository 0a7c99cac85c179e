"""``tests.unit.journal.test_record`` on PostgreSQL and MariaDB."""

from tests.unit.journal.test_record import *  # noqa: F403

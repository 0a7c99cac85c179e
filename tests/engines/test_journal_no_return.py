"""``tests.unit.journal.test_no_return`` on PostgreSQL and MariaDB."""

from tests.unit.journal.test_no_return import *  # noqa: F403

"""``tests.unit.journal.test_keys`` on PostgreSQL and MariaDB."""

from tests.unit.journal.test_keys import *  # noqa: F403

"""``tests.unit.journal.test_patience`` on PostgreSQL and MariaDB."""

from tests.unit.journal.test_patience import *  # noqa: F403

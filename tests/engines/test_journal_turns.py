"""``tests.unit.journal.test_turns`` on PostgreSQL and MariaDB."""

from tests.unit.journal.test_turns import *  # noqa: F403

"""``tests.unit.journal.test_sharing`` on PostgreSQL and MariaDB."""

from tests.unit.journal.test_sharing import *  # noqa: F403

"""``tests.unit.journal.test_abandoning`` on PostgreSQL and MariaDB."""

from tests.unit.journal.test_abandoning import *  # noqa: F403

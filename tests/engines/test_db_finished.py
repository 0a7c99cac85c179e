"""``tests.unit.db.test_finished`` on PostgreSQL and MariaDB, but for what only SQLite can be asked."""

from tests.unit.db.test_finished import (  # noqa: F401
    days,
    test_a_detachment_that_failed_stays_while_its_volume_is_attached,
    test_a_few_go_at_a_time,
    test_volumes_that_were_are_known_without_their_operations,
    test_what_ended_long_ago_goes_and_stays_counted,
    test_what_one_that_has_not_ended_may_ask_about_stays,
    test_who_was_abandoned_or_is_parked_stays,
)

"""The tests of the database and of the journal, on real PostgreSQL and MariaDB servers; processes that are killed at work."""

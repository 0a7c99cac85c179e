"""Drivers: what a kind of share can do. A driver never sees the database."""

"""Compute's operations, one file per noun."""

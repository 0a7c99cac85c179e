"""Compute's REST API: the route table and one file per noun."""

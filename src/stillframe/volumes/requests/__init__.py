"""Requests, one file per noun, as the worker takes them: checked, and turned into rows and operations."""

"""Snapshot policies as arithmetic: when a run is due, and which sets are kept. Pure."""

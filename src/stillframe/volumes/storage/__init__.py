"""Backends, their shares and drivers, and the scheduler that chooses one for a new volume."""

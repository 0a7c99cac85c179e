"""Backends, their shares and drivers, and which of them a new volume comes to lie on."""

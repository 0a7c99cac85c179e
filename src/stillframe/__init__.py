"""Stillframe: live, consistent snapshots of a running virtual machine's QCOW2 volumes."""

__version__ = "0.1.0"

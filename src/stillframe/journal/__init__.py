"""Crash-safe operations: what they are, how they run, how they are taken up again.

An operation is a plan stored before its first step runs. After a crash the files and libvirt are believed, never the journal:
each step is asked whether it is done, then done or undone.
"""

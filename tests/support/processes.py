"""Processes that others started."""

from pathlib import Path


def child(parent: int, words: str) -> int:
    """Returns the pid of a process that ``parent`` started and whose command line holds ``words``."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            stat, line = (process / "stat").read_text(), (process / "cmdline").read_bytes()
        except OSError:
            continue
        if int(stat.rpartition(")")[2].split()[1]) == parent and words.encode() in line:
            return int(process.name)
    raise AssertionError(f"process {parent} has started no {words}")

"""Processes that others started."""

import time
from pathlib import Path


def child(parent: int, words: str, seconds: float = 60) -> int:
    """Returns the pid of a process that ``parent`` starts, or has started, and whose command line holds ``words``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                stat, line = (process / "stat").read_text(), (process / "cmdline").read_bytes()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == parent and words.encode() in line:
                return int(process.name)
        time.sleep(0.1)
    raise AssertionError(f"process {parent} has started no {words}")

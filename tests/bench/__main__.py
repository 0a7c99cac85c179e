"""``make bench``: measures, prints, and writes docs/reference/bench*.md.

``python -m tests.bench [PART]... [--only SECTION]... [--quick]``; parts are quiesce, native, offline, live and waiting.
``--quick`` does one round of small sizes, prints it and writes nothing. ``--pages`` only writes the pages anew from what was
recorded.
"""

import argparse
import signal
import sys

from tests.bench import live, native, offline, quiesce, recording, waiting
from tests.bench.recording import Part, Section

PARTS = (quiesce.PART, native.PART, offline.PART, live.PART, waiting.PART)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # guests and mounts are taken away on the way out
    given = _arguments()
    if not given.pages:
        for part in PARTS:
            if part.name in given.parts or not given.parts:
                for section in part.sections:
                    if section.name in given.only or not given.only:
                        _run(part, section, given.quick)
    if given.pages:
        recording.write_pages(PARTS)
    return 0


def _run(part: Part, section: Section, quick: bool) -> None:
    found = recording.measured(section, quick)
    lines = [f"{part.name}: {section.title}", *section.show(found), *[goal.row() for goal in section.goals(found)], ""]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    if not quick:
        recording.keep(part, section, found)
        recording.write_pages(PARTS)  # after each, so that a run that is cut short leaves what it found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("parts", nargs="*", choices=[[], *[part.name for part in PARTS]], metavar="PART")
    names = [section.name for part in PARTS for section in part.sections]
    parser.add_argument("--only", action="append", default=[], choices=names, metavar="SECTION")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--pages", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

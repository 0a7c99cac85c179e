"""Runs the checks on a share of this machine: ``python -m tests.support.driver_suite KIND DIRECTORY [EXPORT [OPTIONS]]``.

KIND is local, nfs, glusterfs or iscsi. DIRECTORY is the share's directory (local, iscsi), where it is mounted, or the directory
to mount it below. OPTIONS are mount options, separated by commas. ``--small`` also fills the share, which must have 200 MiB at
most.
``--quick`` leaves out all but a few, for a machine on which a program takes a second to start.
One line for each check; ends with 1 when one failed.
"""

import sys
import tempfile
import traceback
from pathlib import Path

from stillframe.volumes.storage.drivers.shares_config import Export
from tests.support.driver_suite import contents, full, hostile, safety
from tests.support.driver_suite.bench import KINDS, WHEN_SMALL, Bench, Check, checks_for, clean, open_bench
from tests.support.oracle_reader import Reader

MODULES = (contents, hostile, safety, full)
# Files are made again, laid one above another and merged; what the share is and what a hypervisor is told of it.
QUICK = (
    contents.an_empty_file_is_made_and_a_repeat_changes_nothing,
    contents.a_commit_may_go_down_over_several_files,
    safety.a_kind_says_which_shares_it_has,
    safety.a_hypervisor_is_told_what_it_needs,
)


def main(words: list[str]) -> int:
    small, quick = "--small" in words, "--quick" in words
    kind, place, *rest = [word for word in words if word not in ("--small", "--quick")]
    export = Export(rest[0] if rest else place, tuple(rest[1].split(",")) if len(rest) > 1 else ())
    reader = Reader()
    with tempfile.TemporaryDirectory(prefix="stillframe-") as scratch:
        bench = open_bench(kind, Path(place), export, Path(scratch), reader)
        chosen = quickly() if quick else {**checks_for(KINDS[kind].CAPABILITIES), **(WHEN_SMALL if small else {})}
        failed = [name for name, check in chosen.items() if not _passes(bench, name, check)]
    reader.close()
    print(f"{kind}: {len(chosen) - len(failed)} of {len(chosen)} checks passed", flush=True)
    return 1 if failed else 0


def quickly() -> dict[str, Check]:
    return {check.__name__: check for check in QUICK}


def _passes(bench: Bench, name: str, check: Check) -> bool:
    words = name.replace("_", " ")
    try:
        check(bench)
    except Exception:
        print(f"FAILED {bench.kind}: {words}\n{traceback.format_exc()}", flush=True)
        return False
    finally:
        clean(bench.scratch)
    print(f"ok {bench.kind}: {words}", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

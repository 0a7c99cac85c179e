"""``make test-tempest``: runs Tempest and writes docs/reference/tempest.md.

``python -m tests.tempest [EXPRESSION]... [--keep DIRECTORY] [--no-page]``: the tests whose ids match one of the expressions,
without any all of ``SUITES``. The directory keeps the logs and what Tempest itself recorded.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.openstack_venv import ROOT
from tests.tempest import configuration, results
from tests.tempest.site import open_site

VENV = ROOT / ".venv-tempest"
SETUP = ROOT / "deploy/setup-tempest"
EXCLUDED = Path(__file__).with_name("excluded.txt")
SUITES = ("tempest.api.volume", "tempest.api.compute.volumes", "cinder_tempest_plugin.api", "cinder_tempest_plugin.rbac")


def main() -> int:
    given = _arguments()
    subprocess.run([str(SETUP)], check=True)
    with tempfile.TemporaryDirectory(prefix="stillframe-tempest-") as scratch:
        directory = given.keep or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        found = _run(directory, given.expressions or [f"^{suite.replace('.', chr(92) + '.')}" for suite in SUITES])
    sys.stdout.write(results.told(found))
    if not given.no_page and not given.expressions:
        results.write_page(found, SUITES)
    return int(any(each.outcome == "failed" for each in found))


def _run(directory: Path, expressions: list[str]) -> list[results.Result]:
    """Runs what matches; returns what became of each."""
    workspace = directory / "workspace"
    with open_site(directory) as site:
        (discover,) = VENV.glob("lib/python3*/site-packages/tempest/test_discover")
        configuration.write(site, workspace, discover)
        (workspace / "include.txt").write_text("\n".join(expressions) + "\n")
        command = [str(VENV / "bin/tempest"), "run", "--workspace-path", str(workspace), "--concurrency", "2"]
        lists = ["--include-list", str(workspace / "include.txt"), "--exclude-list", str(EXCLUDED)]
        environment = {**os.environ, "PATH": f"{VENV}/bin:{os.environ['PATH']}", "OS_TEST_TIMEOUT": "600"}
        with (directory / "tempest.out").open("wb") as out:
            subprocess.run([*command, *lists], check=False, cwd=workspace, stdout=out, stderr=out, env=environment)
    return results.read(workspace, VENV / "bin")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.tempest")
    parser.add_argument("expressions", nargs="*", metavar="EXPRESSION")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY")
    parser.add_argument("--no-page", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

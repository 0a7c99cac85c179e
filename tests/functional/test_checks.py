"""The repository's own checks. A test, so that others use the second processor meanwhile."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FROM_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")  # what a make above us told its own


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", ["lint", "docs"])
def test_they_hold(target: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in FROM_MAKE}
    command = ["make", "--no-print-directory", target]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"

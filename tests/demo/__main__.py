"""Runs the demo in a temporary state directory; ends with 0 only if every proof held."""

import sys
import tempfile
from pathlib import Path

from tests.demo.scenario import tell
from tests.demo.stage import Stage


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="stillframe-demo-") as directory:
        stage = Stage(Path(directory))
        try:
            return tell(stage)
        finally:
            stage.clear()


if __name__ == "__main__":
    sys.exit(main())

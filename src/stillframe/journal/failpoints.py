"""Places at which a test can stop this process. Off unless STILLFRAME_FAILPOINT names one.

The runner has three per step (``<kind>/<verb>/before``, ``effect``, ``record``) and the same for going back
(``undo-before`` ...); a plan therefore brings its own. ``name:sleep=SECONDS`` holds the process there instead of killing it.
"""

import os
import signal
import time

VARIABLE = "STILLFRAME_FAILPOINT"
PHASES = ("before", "effect", "record")


def reached(name: str) -> None:
    """Kills this process with SIGKILL if the environment asks for it at this place."""
    wanted = os.environ.get(VARIABLE, "")
    place, _, effect = wanted.partition(":")
    if place != name or not wanted:
        return
    if effect.startswith("sleep="):
        time.sleep(float(effect.removeprefix("sleep=")))
        return
    os.kill(os.getpid(), signal.SIGKILL)

"""Places at which a test can stop this process. Off unless STILLFRAME_FAILPOINT names some, separated by commas.

The runner has three per step (``<kind>/<verb>/before``, ``effect``, ``record``) and the same for going back
(``undo-before`` ...); a plan therefore brings its own. ``name`` kills the process there; ``name:sleep=SECONDS`` holds it,
``name:fail`` makes the step fail.
"""

import os
import signal
import time

from stillframe.errors import StepFailed

VARIABLE = "STILLFRAME_FAILPOINT"
ANSWER_SECONDS = 0.25  # so that the request which began the operation is answered before its process dies
PHASES = ("before", "effect", "record")
UNDO_PHASES = ("undo-before", "undo-effect", "undo-record")


def reached(name: str) -> None:
    """Does what the environment asks for at this place: SIGKILL to this process, a pause, or a StepFailed."""
    for wanted in os.environ.get(VARIABLE, "").split(","):
        place, _, effect = wanted.partition(":")
        if place != name:
            continue
        if effect == "fail":
            raise StepFailed(f"the failpoint {name} was asked for")
        if effect.startswith("sleep="):
            time.sleep(float(effect.removeprefix("sleep=")))
        else:
            time.sleep(ANSWER_SECONDS)
            os.kill(os.getpid(), signal.SIGKILL)

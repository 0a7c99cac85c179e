"""Places at which a test can stop this process. Off unless STILLFRAME_FAILPOINT names some, separated by commas.

The runner has three per step (``<kind>/<key>/before``, ``effect``, ``record``) and the same for going back (``undo-before``
...); a plan therefore brings its own. ``name`` kills the process there; ``name:sleep=SECONDS`` delays it, ``name:hold`` until
it is killed from outside, ``name:fail`` makes the step fail. ``name@ID`` means only operations whose intent or plan names that
id.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable

from stillframe.errors import StepFailed

LOG = logging.getLogger(__name__)
VARIABLE = "STILLFRAME_FAILPOINT"
ANSWER_SECONDS = 0.25  # so that the request which began the operation is answered before its process dies
PHASES = ("before", "effect", "record")
UNDO_PHASES = ("undo-before", "undo-effect", "undo-record")


def _nothing() -> str:
    return ""


def reached(name: str, about: Callable[[], str] = _nothing) -> None:
    """Does what the environment asks for at this place: SIGKILL to this process, a pause, its end here, or a StepFailed.

    ``about`` returns a text with the ids the place is about; it is called only where somebody asks for this place."""
    for wanted in os.environ.get(VARIABLE, "").split(","):
        place, _, effect = wanted.partition(":")
        place, _, which = place.partition("@")
        if place != name or which not in about():
            continue
        if effect == "fail":
            raise StepFailed(f"the failpoint {name} was asked for")
        if effect.startswith("sleep="):
            LOG.warning("held at %s", wanted)
            time.sleep(float(effect.removeprefix("sleep=")))
        elif effect == "hold":
            LOG.warning("held at %s", wanted)
            threading.Event().wait()
        else:
            time.sleep(ANSWER_SECONDS)
            os.kill(os.getpid(), signal.SIGKILL)

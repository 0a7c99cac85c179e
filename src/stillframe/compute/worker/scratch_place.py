"""The directory of scratch overlays (scratch_dir): looked at when the worker starts, and again for each set that needs it."""

import logging

from stillframe import trust
from stillframe.config import Settings
from stillframe.errors import BadConfiguration, ScratchUnusable
from stillframe.host import scratch

LOG = logging.getLogger(__name__)


def require(settings: Settings) -> None:
    """Makes sure that scratch overlays can be made. The default directory is made where it is missing, a configured one is not.

    Raises ScratchUnusable; the log has the same, because only the operator can do something about it."""
    try:
        _look(settings)
    except BadConfiguration as error:  # names directories that are not ours to tell
        LOG.error("%s", error.message)
        raise ScratchUnusable("scratch_dir: another user could put a directory in its place; the log says where") from error
    except ScratchUnusable as error:
        LOG.error("%s", error.message)
        raise


def refuse_at_start(settings: Settings) -> None:
    """Raises BadConfiguration for a directory that no set could use. Nothing is asked of the default one before it exists, or
    where sets need none."""
    needed = settings.compute.native_mode == "overlay"
    if not needed or not (settings.compute.scratch_dir or settings.scratch_dir.exists()):
        return
    try:
        _look(settings)
    except ScratchUnusable as error:
        raise BadConfiguration(error.message) from error


def _look(settings: Settings) -> None:
    trust.require_place(settings.scratch_dir, "scratch_dir")
    if scratch.share_above(settings.scratch_dir.resolve()) is not None:
        raise ScratchUnusable(
            f"scratch_dir: {settings.scratch_dir} lies on a share of volumes; choose one on a disk of the hypervisor"
        )
    scratch.prepare(settings.scratch_dir, create=not settings.compute.scratch_dir)

"""Finds the kind of an error: by its stable code, or from an error of the operating system."""

import errno
import os
import posixpath
from typing import Any

from stillframe.errors.base import StillframeError
from stillframe.errors.conflicts import ChainConflict
from stillframe.errors.operations import AccessRefused, StepFailed


def _all_kinds(kind: type[StillframeError]) -> list[type[StillframeError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _all_kinds(child))]


def catalogue() -> dict[str, type[StillframeError]]:
    """Returns every error kind by its stable code."""
    return {kind.code: kind for kind in _all_kinds(StillframeError)}


def from_document(document: dict[str, Any]) -> StillframeError:
    """Returns the error that ``to_document`` described; an unknown code becomes the base kind."""
    kind = catalogue().get(document["code"], StillframeError)
    return kind(document["message"], **document["details"])


def of_os_error(error: OSError) -> StillframeError:
    """Returns an error that quotes the operating system. It names a file without its directory, which only the host's
    operator may know."""
    words = error.strerror or str(error) or type(error).__name__
    name = posixpath.basename(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else ""
    if error.errno == errno.ENOENT and name:
        return ChainConflict(f"{name} is not there, though the records name it")
    quoted = f"{name}: {words}" if name else words
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessRefused(f"the host refuses the service's access: {quoted}")
    return StepFailed(f"the host says: {quoted}")

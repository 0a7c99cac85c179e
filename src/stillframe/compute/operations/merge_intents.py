"""What is asked of a live merge, and the steps of its plan, as the journal stores them."""

import os
from pathlib import Path

from stillframe.journal.typed import Args, Intent


class _Merge(Intent, frozen=True, kw_only=True, tag_field="kind"):
    """Merge files of the chain below the disk ``target`` (vda) of a server. ``directory`` is the volume's share on this host,
    ``active`` the active file when it was asked for, ``bandwidth`` in bytes a second, 0: unlimited. ``gone`` are the files that
    nothing may name afterwards, but ``branches``: the caller gives those another backing file before it removes what is gone.
    ``closes`` holds the files of ``gone`` that QEMU only reads, each with its format."""

    server_id: str
    project_id: str
    volume_id: str
    snapshot_id: str
    target: str
    directory: str
    active: str
    bandwidth: int
    gone: tuple[str, ...]
    closes: tuple[tuple[str, str], ...] = ()
    branches: tuple[str, ...] = ()

    @property
    def share(self) -> Path:
        """The directory of the volume's files."""
        return Path(self.directory)

    def path(self, name: str) -> str:
        """Returns the path of one of the volume's files."""
        return os.path.join(self.directory, name)


class PullMerge(_Merge, frozen=True, kw_only=True, tag="pull"):
    """Copy what lies between the active file and ``backing`` up into the active file; without ``backing`` nothing stays behind
    it. ``old_backing`` is what is behind it before."""

    backing: str | None
    backing_format: str | None
    old_backing: str
    old_format: str


class CommitMerge(_Merge, frozen=True, kw_only=True, tag="commit"):
    """Copy ``top``, and what lies between, down into ``base``. ``above`` is the file on top of ``top``; None when ``top`` is
    the active file."""

    top: str
    base: str
    base_format: str
    above: str | None


MergeVolume = PullMerge | CommitMerge


class Look(Args, frozen=True, kw_only=True):
    """Check that everything is as planned."""

    verb = "look"


class Commit(Args, frozen=True, kw_only=True):
    """Commit a file between base and active file."""

    verb = "commit"


class CommitActive(Args, frozen=True, kw_only=True):
    """Commit the active file, and pivot to the base."""

    verb = "commit_active"


class Pull(Args, frozen=True, kw_only=True):
    """Pull into the active file."""

    verb = "pull"


class Verify(Args, frozen=True, kw_only=True):
    """Check that nothing names the files that go."""

    verb = "verify"


class Report(Args, frozen=True, kw_only=True):
    """Tell block storage."""

    verb = "report"

"""The request is right, but something is in a state that does not allow it now."""

from stillframe.errors.base import StillframeError


class Conflict(StillframeError):
    """The state of something does not allow the request. 409."""

    code, status = "conflict", 409
    hint = "Wait for the named operation to end, or change what it depends on, then repeat."


class Busy(Conflict):
    """An operation holds the thing. The same request is accepted once that operation has ended."""

    code = "busy"
    hint = "Wait for the named operation to end, then repeat; 'stillframe operation show ID' shows its progress."


class AnotherJob(Busy):
    """Another program works on the server through libvirt; nothing was frozen or changed."""

    code = "another_job"
    hint = "Wait for the named job to end ('virsh domjobinfo' and 'virsh blockjob' show it), or repeat with wait=SECONDS."


class IdInUse(Conflict):
    """The request chose an id that already belongs to something else; nothing was changed."""

    code = "id_in_use"
    hint = "Choose a new id for a new request; a repeat of a request must be the same in every part."


class QuiesceRefused(StillframeError):
    """Quiescing was required and is not possible; nothing was created."""

    code, status = "quiesce_refused", 409
    hint = "Start or repair the guest agent, or ask with quiesce=preferred and accept a crash-consistent snapshot."


class ChainConflict(StillframeError):
    """The share or libvirt disagrees with the records."""

    code, status = "chain_conflict", 409
    hint = "Do not start or change the server; compare the named file with the volume's record first."


class FileInUse(Conflict):
    """A file on a share was to be managed or unmanaged, but a program, another image or a server's description uses it."""

    code = "file_in_use"
    hint = "Stop what uses the file, or choose another one. If other files are based on it, leave it in place and use a copy."

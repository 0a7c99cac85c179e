"""Every kind of error: a stable code, the HTTP status it becomes, whether a repeat can help, and what to do next.

An error is raised with a message that names the thing and the cause. ``hint`` says what to do about it. Errors cross
process borders as ``to_document``/``from_document`` (see ``rpc``) and reach a client as a fault body (see ``web``).
"""

import errno
import os
import posixpath
from typing import Any, ClassVar

from stillframe.printable import escaped


class StillframeError(Exception):
    """An error a person is meant to read.

    ``details`` is a JSON-serialisable mapping for programs (ids, numbers); it never holds secrets. ``code`` and ``hint`` are
    the kind's; an error that another service reported has those of that service (see ``client/faults.py``).
    """

    code: str = "internal"
    status: ClassVar[int] = 500
    may_retry: ClassVar[bool] = False
    hint: str = "Look for the request id in the service's log."

    def __init__(self, message: str, **details: Any) -> None:
        message = escaped(message, keep="\n\t")  # it may quote a client, a guest, libvirt or a file
        super().__init__(message)
        self.message = message
        self.details = details

    def __str__(self) -> str:
        """What a command line prints: the message and what to do next."""
        return f"{self.message}\nhint: {self.hint}"

    def to_document(self) -> dict[str, Any]:
        """Returns ``{"code", "message", "details"}``."""
        return {"code": self.code, "message": self.message, "details": self.details}


class InternalError(StillframeError):
    """A defect of Stillframe. Its message is only logged: it may contain paths of the host, or data of another project."""

    code = "internal_error"
    hint = "The service's log holds the cause, under the id of the request or of the operation; report it as a defect."


class BadRequest(StillframeError):
    code, status = "bad_request", 400
    hint = "Correct the request; nothing was changed."


class Unauthorized(StillframeError):
    code, status = "unauthorized", 401
    hint = "Send valid credentials: those of clouds.yaml in the state directory, or a Keystone token if Keystone is configured."


class Forbidden(StillframeError):
    code, status = "forbidden", 403
    hint = "Ask an administrator for the role the policy names."


class NotFound(StillframeError):
    code, status = "not_found", 404
    hint = "Check the id, and that it belongs to your project."


class PathNotFound(NotFound):
    """The service has no such path, or not in the requested version. That says nothing about any server or volume."""

    code = "path_not_found"
    hint = "Check the URL and the microversion; a path of a newer release is not known to an older one."


class MethodNotAllowed(StillframeError):
    code, status = "method_not_allowed", 405
    hint = "Use a method that the Allow header names; nothing was changed."


class MediaTypeNotSupported(StillframeError):
    code, status = "media_type_not_supported", 415
    hint = "Send the body as application/json; nothing was changed."


class VersionNotSupported(StillframeError):
    code, status = "version_not_supported", 406
    hint = "Ask for a microversion inside the range the version document shows."


class Conflict(StillframeError):
    code, status = "conflict", 409
    hint = "Wait for the named operation to end, or change what it depends on, then repeat."


class Busy(Conflict):
    """An operation holds the thing; the same request is accepted once that has ended."""

    code = "busy"
    hint = "Wait for the named operation to end, then repeat; 'stillframe operation show ID' tells how far it is."


class AnotherJob(Busy):
    """Another program works on the server through libvirt; nothing was frozen or changed."""

    code = "another_job"
    hint = "Let the named job end ('virsh domjobinfo' and 'virsh blockjob' show it), then repeat; or ask with wait=SECONDS."


class IdInUse(Conflict):
    """The id that a request chose belongs to something else already; nothing was changed."""

    code = "id_in_use"
    hint = "Choose a new id for a new request; a repeat of a request must be the same in every part."


class QuiesceRefused(StillframeError):
    """Quiescing was required and is not possible; nothing was created."""

    code, status = "quiesce_refused", 409
    hint = "Start or repair the guest agent, or ask with quiesce=preferred and accept a crash-consistent snapshot."


class ChainConflict(StillframeError):
    """The share or libvirt does not agree with the records."""

    code, status = "chain_conflict", 409
    hint = "Do not start or change the server; compare the named file with the volume's record first."


class FileInUse(Conflict):
    """A program, another image or a server's description uses a file of a share that was to be managed or unmanaged."""

    code = "file_in_use"
    hint = "Stop what uses the file, or choose another file. One that others are based on stays where it is: take a copy of it."


class QuotaExceeded(StillframeError):
    code, status = "quota_exceeded", 413
    hint = "Ask an administrator to raise the project's quota, or delete what is no longer needed."


class TooManyRequests(StillframeError):
    code, status = "too_many_requests", 429
    hint = "Wait as long as Retry-After says, then repeat with the right password or token; nothing was changed."


class TooLarge(StillframeError):
    code, status = "too_large", 413
    hint = "Send a smaller body."


class ShareUnavailable(StillframeError):
    """The share does not answer, is full, or is not the same share as before. Says nothing about its content."""

    code, status, may_retry = "share_unavailable", 503, True
    hint = "Check the mount and the free space of the named share or directory, then repeat."


class ForeignShare(ShareUnavailable):
    """The marker on a share names another deployment of Stillframe, which may be using it."""

    code = "foreign_share"
    hint = (
        "Give this deployment a share of its own. Only if the other one is gone for good, or no longer uses the share:"
        " 'stillframe manage-share --from-deployment ID' takes it over, ID being the one the message names."
    )


class BackupStoreUnavailable(StillframeError):
    """The backup store does not answer, is full, or is not the same store as before. Says nothing about its content."""

    code, status, may_retry = "backup_store_unavailable", 503, True
    hint = "Check the backup store: its mount or endpoint, its credentials and its free space; then repeat."


class HypervisorUnavailable(StillframeError):
    code, status, may_retry = "hypervisor_unavailable", 503, True
    hint = "Check that libvirtd runs and the configured libvirt_uri is right; guests are not affected."


class ServiceUnavailable(StillframeError):
    """The other service, or this service's worker, does not answer."""

    code, status, may_retry = "service_unavailable", 503, True
    hint = "Check that the named service runs, then repeat."


class ServiceFailed(StillframeError):
    """The other service answered with an internal error: it runs, and asking for longer does not help."""

    code, status = "service_failed", 502
    hint = "The named service's log holds the cause, under the request id; put that right, then repeat."


class StillRunning(StillframeError):
    """A command waited for as long as it was told to; what it waited for continues."""

    code, status = "still_running", 409
    hint = "Nothing was cancelled. Look again with show, or wait longer with --timeout."


class AgentFailed(StillframeError):
    """The guest agent is absent, hung, or refused a command."""

    code, status = "agent_failed", 409
    hint = "Check qemu-guest-agent inside the guest and the org.qemu.guest_agent.0 channel of the domain."


class HookFailed(AgentFailed):
    """A program that the guest agent runs before a freeze and after a thaw ended with an error. After a thaw it is thawed."""

    code = "hook_failed"
    hint = (
        "Look at the hook's own log inside the guest (with Debian's wrapper /var/log/qga-fsfreeze-hook.log), and mend the hook."
    )


class StepFailed(StillframeError):
    """A step could not be done; the operation is undone."""

    code, status = "step_failed", 409
    hint = "Put right what the message names. Look at what is left (show or list), then repeat."


class HypervisorRefused(StepFailed):
    """libvirt, or QEMU behind it, refused a call. The message holds its words."""

    code = "hypervisor_refused"
    hint = "The message holds libvirt's own words: put right what they name, then repeat."


class Parked(StillframeError):
    """What is found fits neither before nor after; a person has to look. Nothing is touched."""

    code, status = "parked", 409
    hint = "Read the message and put the named thing right; then 'stillframe operation retry ID' has it looked at again."


class Abandoned(StillframeError):
    """A person ended a parked operation where it stood: nothing was put back, and nothing removed."""

    code, status = "abandoned", 409
    hint = "Nothing was put back and nothing removed: 'stillframe doctor' names what is left and what can be done."


class Cancelled(StillframeError):
    """Somebody asked to cancel the operation; it ends without going back or forward."""

    code, status = "cancelled", 409
    hint = "What is left is said in the message; asking for the deletion again finishes it."


class HostCommandFailed(StillframeError):
    """An outside program ended with an error, a signal, or not in time."""

    code, status = "host_command_failed", 409
    hint = "The message holds the program's own words: put right what they name, then repeat."


class AccessRefused(HostCommandFailed):
    """The host does not let the service, libvirt or QEMU use a file or a call."""

    code, status = "access_refused", 403
    hint = (
        "An operator looks at the owner, the mode and the security label (AppArmor, SELinux) of what the message names, and"
        " at what libvirt allows to the service's user; then repeat."
    )


class ImageLocked(HostCommandFailed):
    """A program has a file open that QEMU was to lock; most have it for a moment only."""

    code, may_retry = "image_locked", True
    hint = "Let the program that has the named file open end ('fuser FILE' names it on its host), then repeat."


class BadImage(StillframeError):
    """A file is not an image we are willing to hand to QEMU."""

    code, status = "bad_image", 409
    hint = "QEMU did not open the file, nothing was changed. Keep a copy of it; then put right what the message names."


class InternalSnapshots(BadImage):
    """A qcow2 file with snapshots inside it. The volume's present content is beside them and is whole."""

    code = "internal_snapshots"
    hint = (
        "The content is whole. Look with 'qemu-img snapshot -l FILE'; when nobody needs what they hold, delete each with"
        " 'qemu-img snapshot -d SNAPSHOT FILE' while no program has the file open, and repeat: nothing else is lost."
    )


class NotSound(BadImage):
    """A file whose reference counts or bitmaps are not certain: nothing is built on it or merged into it."""

    code = "image_not_sound"
    hint = (
        "Nothing was changed. Stop the server and repeat: what can be repaired safely is repaired then. Of a file with the"
        " corrupt bit make a copy first, then 'qemu-img check -r all' on the copy, and compare."
    )


class BadBackup(StillframeError):
    """A part of a backup is missing, damaged, or not what its manifest says. The message names the part."""

    code, status = "bad_backup", 409
    hint = "Nothing was restored from it. Use another backup of the volume, or bring the named object back from a copy."


class ImageServiceUnavailable(StillframeError):
    """The image service, or Keystone in front of it, does not answer or does not let us in."""

    code, status, may_retry = "image_service_unavailable", 503, True
    hint = "Check that the image service and Keystone run and that [image] in the configuration is right, then repeat."


class ImageServiceNotConfigured(StillframeError):
    code, status = "image_service_not_configured", 400
    hint = "Ask the operator to name the image service below [image] in the configuration."


class ImageNotUsable(StillframeError):
    """An image of the image service cannot be used for this, or the image service does not take the image."""

    code, status = "image_not_usable", 400
    hint = "Choose an image that is active, unaltered and not too large, in the format it is declared to have."


class AlreadyRunning(StillframeError):
    code, status = "already_running", 409
    hint = "Stop the named process first. Another state directory is another installation: it needs shares of its own."


class NotInstalled(StillframeError):
    """A command, or an option's value, needs packages that this installation has not."""

    code, status = "not_installed", 501
    hint = "Install the part of Stillframe that the message names, into the environment that this program runs in."


class SchemaMismatch(StillframeError):
    """The tables of the database are not those of this release."""

    code, status = "schema_mismatch", 500
    hint = (
        "Stop every service that uses the database, copy it away, and run 'stillframe database upgrade' of the newest release"
        " that is to use it."
    )


class BadConfiguration(StillframeError):
    code, status = "bad_configuration", 500
    hint = "Correct the named option."


def _all_kinds(kind: type[StillframeError]) -> list[type[StillframeError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _all_kinds(child))]


def catalogue() -> dict[str, type[StillframeError]]:
    """Returns every error kind by its stable code."""
    return {kind.code: kind for kind in _all_kinds(StillframeError)}


def from_document(document: dict[str, Any]) -> StillframeError:
    """Makes the error again that ``to_document`` described; an unknown code becomes the base kind."""
    kind = catalogue().get(document["code"], StillframeError)
    return kind(document["message"], **document["details"])


def of_os_error(error: OSError) -> StillframeError:
    """Returns what the operating system refused, in its words; a file is named without its directory, which is the host's."""
    words = error.strerror or str(error) or type(error).__name__
    name = posixpath.basename(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else ""
    if error.errno == errno.ENOENT and name:
        return ChainConflict(f"{name} is not there, though the records name it")
    told = f"{name}: {words}" if name else words
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessRefused(f"the host refuses the service's access: {told}")
    return StepFailed(f"the host says: {told}")

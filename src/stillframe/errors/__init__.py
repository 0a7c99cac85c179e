"""Every kind of error: a stable code, the HTTP status it becomes, whether a repeat can help, and what to do next.

An error is raised with a message that names the thing and the cause. ``hint`` says what to do about it. Errors cross
process borders as ``to_document``/``from_document`` (see ``rpc``) and reach a client as a fault body (see ``web``).

The kinds lie here by family. Everybody else imports them from this package, so that a kind can change its family.
"""

from stillframe.errors.base import InternalError, StillframeError
from stillframe.errors.conflicts import AnotherJob, Busy, ChainConflict, Conflict, FileInUse, IdInUse, QuiesceRefused
from stillframe.errors.content import BadBackup, BadImage, ImageNotUsable, InternalSnapshots, NotSound
from stillframe.errors.convert import catalogue, from_document, of_os_error
from stillframe.errors.installation import AlreadyRunning, BadConfiguration, NotInstalled, SchemaMismatch
from stillframe.errors.operations import (
    Abandoned,
    AccessRefused,
    AgentFailed,
    Cancelled,
    HookFailed,
    HostCommandFailed,
    HypervisorRefused,
    ImageLocked,
    Parked,
    StepFailed,
    StillRunning,
    TargetRefused,
)
from stillframe.errors.requests import (
    BadRequest,
    Forbidden,
    ImageServiceNotConfigured,
    MediaTypeNotSupported,
    MethodNotAllowed,
    NotFound,
    PathNotFound,
    QuotaExceeded,
    TooLarge,
    TooManyConnections,
    TooManyRequests,
    Unauthorized,
    VersionNotSupported,
)
from stillframe.errors.unavailable import (
    BackupStoreUnavailable,
    ForeignShare,
    HypervisorUnavailable,
    ImageServiceUnavailable,
    ServiceBusy,
    ServiceFailed,
    ServiceUnavailable,
    ShareUnavailable,
    TargetUnavailable,
    TargetUnreachable,
)

__all__ = [
    "Abandoned",
    "AccessRefused",
    "AgentFailed",
    "AlreadyRunning",
    "AnotherJob",
    "BackupStoreUnavailable",
    "BadBackup",
    "BadConfiguration",
    "BadImage",
    "BadRequest",
    "Busy",
    "Cancelled",
    "ChainConflict",
    "Conflict",
    "FileInUse",
    "Forbidden",
    "ForeignShare",
    "HookFailed",
    "HostCommandFailed",
    "HypervisorRefused",
    "HypervisorUnavailable",
    "IdInUse",
    "ImageLocked",
    "ImageNotUsable",
    "ImageServiceNotConfigured",
    "ImageServiceUnavailable",
    "InternalError",
    "InternalSnapshots",
    "MediaTypeNotSupported",
    "MethodNotAllowed",
    "NotFound",
    "NotInstalled",
    "NotSound",
    "Parked",
    "PathNotFound",
    "QuiesceRefused",
    "QuotaExceeded",
    "SchemaMismatch",
    "ServiceBusy",
    "ServiceFailed",
    "ServiceUnavailable",
    "ShareUnavailable",
    "StepFailed",
    "StillRunning",
    "StillframeError",
    "TargetRefused",
    "TargetUnavailable",
    "TargetUnreachable",
    "TooLarge",
    "TooManyConnections",
    "TooManyRequests",
    "Unauthorized",
    "VersionNotSupported",
    "catalogue",
    "from_document",
    "of_os_error",
]

"""Something that the service depends on does not answer, or does not work. Most of these are tried again."""

from stillframe.errors.base import StillframeError


class ShareUnavailable(StillframeError):
    """The share does not answer, is full, or is not the same share as before. This says nothing about its content."""

    code, status, may_retry = "share_unavailable", 503, True
    hint = "Check the mount and the free space of the named share or directory, then repeat."


class ForeignShare(ShareUnavailable):
    """The marker on a share names another deployment of Stillframe, which may be using it."""

    code = "foreign_share"
    hint = (
        "Give this deployment a share of its own. Only if the other one is gone for good, or no longer uses the share:"
        " 'stillframe manage-share --from-deployment ID' takes it over, with the ID that the message names."
    )


class ScratchUnusable(ShareUnavailable):
    """What scratch_dir names is not there, or is no place for the scratch overlays of a set. Nothing was frozen or changed."""

    code = "scratch_unusable"
    hint = "The operator corrects what lies at scratch_dir, or that option in [compute]; then repeat."


class TargetUnavailable(StillframeError):
    """The iSCSI target daemon does not answer, or cannot export a volume. This says nothing about the volume's content."""

    code, status, may_retry = "target_unavailable", 503, True
    hint = (
        "Start the target daemon ('systemctl start tgt') and repeat. Block storage exports attached volumes again by itself,"
        " within seconds."
    )


class TargetUnreachable(StillframeError):
    """A volume's iSCSI target does not answer this host, or does not export the volume to it now. This says nothing about
    the volume's content."""

    code, status, may_retry = "target_unreachable", 503, True
    hint = "Check that the named target runs and that this host reaches its portal, then repeat; nothing was changed."


class BackupStoreUnavailable(StillframeError):
    """The backup store does not answer, is full, or is not the same store as before. This says nothing about its content."""

    code, status, may_retry = "backup_store_unavailable", 503, True
    hint = "Check the backup store: its mount or endpoint, its credentials and its free space; then repeat."


class HypervisorUnavailable(StillframeError):
    """libvirt does not answer, so nothing is known about servers. 503; a repeat may help."""

    code, status, may_retry = "hypervisor_unavailable", 503, True
    hint = "Check that libvirtd runs and the configured libvirt_uri is right; guests are not affected."


class ServiceUnavailable(StillframeError):
    """The other service, or this service's worker, does not answer."""

    code, status, may_retry = "service_unavailable", 503, True
    hint = "Check that the named service runs, then repeat."


class ServiceBusy(StillframeError):
    """The service has as many connections open as it allows. Nothing was done."""

    code, status, may_retry = "service_busy", 503, True
    hint = (
        "Wait as long as Retry-After says, then repeat; nothing was changed. If it lasts, find out who has so many connections"
        " open ('ss -tn'), or raise max_connections."
    )


class ServiceFailed(StillframeError):
    """The other service answered with an internal error: it runs, and a repeat does not help."""

    code, status = "service_failed", 502
    hint = "The named service's log holds the cause, under the request id; fix that, then repeat."


class ImageServiceUnavailable(StillframeError):
    """The image service, or Keystone in front of it, does not answer or does not accept our credentials."""

    code, status, may_retry = "image_service_unavailable", 503, True
    hint = "Check that the image service and Keystone run and that [image] in the configuration is right, then repeat."

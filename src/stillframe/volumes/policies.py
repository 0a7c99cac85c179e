"""Who may do what with block storage. Names follow Cinder's where Cinder has the rule."""

from oslo_policy.policy import RuleDefault

from stillframe.web.policy import ADMIN, ADMIN_OR_SERVICE, MEMBER, MEMBER_OR_SERVICE, READER, SERVICE

RULES = [
    RuleDefault("volume:get", READER, "List and show volumes"),
    RuleDefault("volume:create", MEMBER, "Create a volume"),
    RuleDefault("volume:update", MEMBER, "Rename a volume, change its metadata"),
    RuleDefault("volume:delete", MEMBER, "Delete a volume"),
    RuleDefault("volume:extend", MEMBER, "Grow a volume"),
    RuleDefault("volume:revert_to_snapshot", MEMBER, "Revert a volume to a snapshot, and undo that"),
    RuleDefault("volume_extension:volume_admin_actions:reset_status", ADMIN, "Set a volume's status"),
    RuleDefault("volume_extension:volume_admin_actions:force_delete", ADMIN, "Delete a volume whatever its status"),
    RuleDefault("volume_extension:volume_admin_actions:force_detach", ADMIN, "Release a volume from a server that is gone"),
    RuleDefault("volume_extension:volume_manage", ADMIN, "Take over a file on a share as a volume"),
    RuleDefault("volume_extension:volume_unmanage", ADMIN, "Unmanage a volume; its file stays"),
    RuleDefault("volume_extension:snapshot_admin_actions:reset_status", ADMIN, "Set a snapshot's status"),
    RuleDefault("volume_extension:snapshot_admin_actions:force_delete", ADMIN, "Delete a snapshot whatever its status"),
    RuleDefault("volume:get_snapshot", READER, "List and show snapshots"),
    RuleDefault("volume:create_snapshot", MEMBER, "Snapshot a volume that nothing is attached to"),
    RuleDefault("volume:update_snapshot", MEMBER, "Rename a snapshot, change its metadata"),
    RuleDefault("volume:delete_snapshot", MEMBER_OR_SERVICE, "Delete a snapshot"),
    RuleDefault("volume:attachment_get", READER, "List and show attachments"),
    RuleDefault("volume:attachment_create", MEMBER_OR_SERVICE, "Reserve a volume for a server"),
    RuleDefault("volume:attachment_update", MEMBER_OR_SERVICE, "Give an attachment its connector"),
    RuleDefault("volume:attachment_complete", ADMIN_OR_SERVICE, "Say that the server has the volume"),
    RuleDefault("volume:attachment_report", SERVICE, "Say whether the running guest has the disk"),
    RuleDefault("volume:attachment_delete", MEMBER_OR_SERVICE, "Release a volume"),
    RuleDefault("volume:note_fault", SERVICE, "Say why compute could not attach or detach a volume"),
    RuleDefault("volume:create_snapshot_metadata", SERVICE, "Record a snapshot that compute is taking"),
    RuleDefault("volume:finalize_snapshot_metadata", SERVICE, "Say how compute's snapshot ended"),
    RuleDefault("volume:snapshot_delete_metadata", SERVICE, "Drop a snapshot's record, storage untouched"),
    RuleDefault("volume:update_snapshot_status", SERVICE, "Nova's report on an assisted volume snapshot"),
    RuleDefault("volume:upload_image", MEMBER, "Upload a volume to an image"),
    RuleDefault("backup:get", READER, "List and show backups"),
    RuleDefault("backup:create", MEMBER, "Back up a volume or a snapshot"),
    RuleDefault("backup:update", MEMBER, "Rename a backup, change its metadata"),
    RuleDefault("backup:restore", MEMBER, "Restore a backup"),
    RuleDefault("backup:delete", MEMBER, "Delete a backup"),
    RuleDefault("backup:export_import", ADMIN, "Export and import records of backups"),
    RuleDefault("backup:admin_actions", ADMIN, "Set a backup's status, delete it whatever its status"),
    RuleDefault("volume_extension:type_create", ADMIN, "Make a volume type"),
    RuleDefault("volume_extension:type_update", ADMIN, "Change a volume type and its extra specs"),
    RuleDefault("volume_extension:type_delete", ADMIN, "Delete a volume type"),
    RuleDefault("scheduler_extension:scheduler_stats:get_pools", ADMIN, "Show the backends' capacity"),
    RuleDefault("volume_extension:types", READER, "List and show volume types"),
    RuleDefault("volume_extension:limits", READER, "Show limits"),
    RuleDefault("volume_extension:quotas:show", READER, "Show quotas"),
    RuleDefault("volume_extension:quotas:update", ADMIN, "Set quotas"),
    RuleDefault("volume_extension:services:index", ADMIN, "List services"),
    RuleDefault("volume:availability_zone_list", READER, "List availability zones"),
]


def list_rules() -> list[RuleDefault]:
    """Entry point of oslo.policy."""
    return RULES

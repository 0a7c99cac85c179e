"""Who may do what with servers. Names follow Nova's where Nova has the rule."""

from oslo_policy.policy import RuleDefault

from stillframe.web.policy import ADMIN, MEMBER, READER, SERVICE

RULES = [
    RuleDefault("os_compute_api:servers:index", READER, "List and show servers"),
    RuleDefault("os_compute_api:servers:power", MEMBER, "Start, stop, pause and reboot servers"),
    RuleDefault("os_compute_api:os-adopt-disks", ADMIN, "Make volumes of a server's disks where they are, and end that"),
    RuleDefault("os_compute_api:flavors", READER, "List flavors"),
    RuleDefault("os_compute_api:limits", READER, "Show limits"),
    RuleDefault("os_compute_api:os-volumes-attachments:index", READER, "List and show a server's volumes"),
    RuleDefault("os_compute_api:os-volumes-attachments:create", MEMBER, "Attach a volume"),
    RuleDefault("os_compute_api:os-volumes-attachments:delete", MEMBER, "Detach a volume"),
    RuleDefault("os_compute_api:os-assisted-snapshots:index", READER, "List and show assisted snapshots"),
    RuleDefault("os_compute_api:os-assisted-snapshots:create", MEMBER, "Take an assisted snapshot"),
    RuleDefault("os_compute_api:os-assisted-snapshots:update", MEMBER, "Name, describe and label an assisted snapshot"),
    RuleDefault("os_compute_api:os-assisted-snapshots:delete", MEMBER, "Delete an assisted snapshot"),
    RuleDefault("os_compute_api:os-assisted-snapshot-settings:show", READER, "Show what a server's assisted snapshots keep to"),
    RuleDefault(
        "os_compute_api:os-assisted-snapshot-settings:update", MEMBER, "Change what a server's assisted snapshots keep to"
    ),
    RuleDefault("os_compute_api:os-assisted-snapshots:reset_status", ADMIN, "Set the status of an assisted snapshot"),
    RuleDefault("os_compute_api:os-snapshot-policies:index", READER, "List and show snapshot policies"),
    RuleDefault("os_compute_api:os-snapshot-policies:create", MEMBER, "Make a snapshot policy"),
    RuleDefault("os_compute_api:os-snapshot-policies:update", MEMBER, "Change a snapshot policy"),
    RuleDefault("os_compute_api:os-snapshot-policies:delete", MEMBER, "Delete a snapshot policy"),
    RuleDefault("os_compute_api:os-assisted-volume-snapshots:create", SERVICE, "Switch one volume to its new overlay"),
    RuleDefault(
        "os_compute_api:os-assisted-volume-snapshots:delete", SERVICE, "Merge files of an attached volume; cancel that"
    ),
    RuleDefault("os_compute_api:os-assisted-volumes", SERVICE, "See which server has a volume, grow its disk, name its file"),
]


def list_rules() -> list[RuleDefault]:
    """Entry point of oslo.policy."""
    return RULES

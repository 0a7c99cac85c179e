"""Every table. Times are naive UTC; documents are JSON; ids are lower-case UUIDs with dashes."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
)

from stillframe.db.group_tables import group_snapshots as group_snapshots
from stillframe.db.group_tables import group_types as group_types
from stillframe.db.group_tables import group_volume_types as group_volume_types
from stillframe.db.group_tables import volume_groups as volume_groups
from stillframe.db.mariadb import LONGEST_INDEXED
from stillframe.db.schema import SEQUENCE, owned, times
from stillframe.db.schema import metadata as metadata
from stillframe.db.schema import now as now

_PATH = String(1024).with_variant(String(LONGEST_INDEXED), "mysql")  # of an export, or a directory

volume_types = Table(
    "volume_types",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("description", Text),
    Column("extra_specs", JSON, nullable=False),
    *times(),
    Column("is_public", Boolean, nullable=False),
    Column("qos_specs_id", String(36)),
)

volume_type_access = Table(
    "volume_type_access",
    metadata,
    Column("volume_type_id", String(36), primary_key=True),
    Column("project_id", String(255), primary_key=True),  # which may use the type, though it is not public
)

qos_specs = Table(
    "qos_specs",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("consumer", String(16), nullable=False),
    Column("specs", JSON, nullable=False),
    *times(),
)

volume_transfers = Table(
    "volume_transfers",
    metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("id", String(36), nullable=False, unique=True),
    Column("project_id", String(255), nullable=False),  # which offers the volume
    Column("name", String(255)),
    Column("volume_id", String(36), nullable=False),
    Column("salt", String(32), nullable=False),
    Column("key_digest", String(64), nullable=False),  # the key itself is shown once and not kept
    Column("no_snapshots", Boolean, nullable=False),
    *times(),
    Index("ix_transfers_project", "project_id", "seq"),
    Index("ix_transfers_volume", "volume_id"),
)

messages = Table(
    "messages",
    metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("id", String(36), nullable=False, unique=True),
    Column("project_id", String(255), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("resource_type", String(36), nullable=False),
    Column("resource_uuid", String(36), nullable=False),
    Column("event_id", String(64), nullable=False),
    Column("text", Text, nullable=False),
    Column("expires_at", DateTime, nullable=False),
    *times(),
    Index("ix_messages_project", "project_id", "seq"),
)

quota_classes = Table(
    "quota_classes",
    metadata,
    Column("class_name", String(191), primary_key=True),
    Column("resource", String(64), primary_key=True),
    Column("hard_limit", Integer, nullable=False),
)

service_states = Table(  # what administrators set; a service that nobody touched has no row
    "service_states",
    metadata,
    Column("binary", String(64), primary_key=True),
    Column("host", String(191), primary_key=True),
    Column("disabled", Boolean, nullable=False),
    Column("disabled_reason", Text),
    Column("frozen", Boolean, nullable=False),
)

volumes = Table(
    "volumes",
    metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    *owned(),
    Column("size", Integer, nullable=False),  # GiB
    Column("status", String(32), nullable=False),
    Column("volume_type_id", String(36), ForeignKey("volume_types.id"), nullable=False),
    Column("availability_zone", String(255), nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("active_file", String(255), nullable=False),
    Column("format", String(16), nullable=False),
    Column("fault", Text),  # why the status is "error", for people
    *times(),
    Column("backend", String(64), nullable=False),  # the configuration section
    Column("share", _PATH, nullable=False),  # the export, or the directory of a local backend
    Column("base_format", String(16), nullable=False),  # of the lowest file; never probed (I6)
    Column("snapshot_id", String(36)),  # what it was made from
    Column("source_volid", String(36)),
    Column("bootable", Boolean, nullable=False, default=False),
    Column("image_metadata", JSON(none_as_null=True)),
    Column("linked_to", JSON(none_as_null=True)),  # {"volume_id", "file", "format"}: what a linked clone reads
    Column("undo_file", String(255)),  # active before the last revert, while that can be undone
    Column("needs_cleanup", Boolean, nullable=False, default=False),  # may hold files that nobody needs any more
    Column("base_file", String(255)),  # the lowest file of an adopted volume; null: volume-<id>
    Column("readonly", Boolean),  # no server may write to it; null: nobody ever said so or took it back
    Column("group_id", String(36)),  # the group it is in
    Column("parent_images", JSON(none_as_null=True)),  # paths: what the base of an adopted volume reads through
    Index("ix_volumes_project", "project_id", "seq"),
    Index("ix_volumes_share", "share"),
    Index("ix_volumes_base_file", "base_file"),
    Index("ix_volumes_group", "group_id"),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    *owned(),
    Column("volume_id", String(36), ForeignKey("volumes.id"), nullable=False),
    Column("size", Integer, nullable=False),  # GiB, of the volume at that moment
    Column("status", String(32), nullable=False),
    Column("progress", String(8), nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("overlay", String(255)),  # receives the writes made after the snapshot; null at the tip of a branch that was left
    Column("backing", String(255), nullable=False),  # holds the snapshot's data
    Column("backing_format", String(16), nullable=False),
    Column("consistency", JSON(none_as_null=True)),  # null: taken with nothing attached, exact
    Column("server_id", String(36)),
    Column("fault", Text),
    *times(),
    Column("group_snapshot_id", String(36)),  # the group snapshot it is a part of
    Index("ix_snapshots_project", "project_id", "seq"),
    Index("ix_snapshots_volume", "volume_id", "seq"),
    Index("ix_snapshots_group_snapshot", "group_snapshot_id"),
)

attachments = Table(
    "attachments",
    metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("id", String(36), nullable=False, unique=True),
    Column("project_id", String(255), nullable=False),
    Column("volume_id", String(36), ForeignKey("volumes.id"), nullable=False),
    Column("instance_id", String(36)),
    Column("status", String(32), nullable=False),
    Column("mode", String(2), nullable=False),
    Column("connector", JSON(none_as_null=True)),
    Column("attached_at", DateTime),
    *times(),
    Column("missing_since", DateTime),  # compute has seen the running guest without the disk
    Index("ix_attachments_volume", "volume_id"),
    Index("ix_attachments_instance", "instance_id"),
)

quotas = Table(
    "quotas",
    metadata,
    Column("project_id", String(255), primary_key=True),
    Column("resource", String(64), primary_key=True),
    Column("hard_limit", Integer, nullable=False),
)

services = Table(
    "services",
    metadata,
    Column("binary", String(64), primary_key=True),
    Column("host", String(255), primary_key=True),
    Column("seen_at", Float, nullable=False),  # seconds since the epoch
    Column("disabled_reason", Text),
    *times(),
)

write_turn = Table(
    "write_turn",
    metadata,
    Column("only_one", Integer, primary_key=True, autoincrement=False),  # the one row; see turns
)

deployments = Table(
    "deployments",
    metadata,
    Column("only", Integer, primary_key=True),  # 1: there is one row
    Column("id", String(36), nullable=False),  # what the markers of its shares say
)

shares = Table(
    "shares",
    metadata,
    Column("path", _PATH, primary_key=True),
    Column("share_id", String(36), nullable=False),  # what the marker file on the share must say
)

backups = Table(
    "backups",
    metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    *owned(),
    Column("volume_id", String(36), nullable=False),  # the volume may be gone
    Column("snapshot_id", String(36)),
    Column("parent_id", String(36)),  # what an incremental one builds on
    Column("status", String(32), nullable=False),
    Column("size", Integer, nullable=False),  # GiB
    Column("object_count", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),  # stored
    Column("container", String(1024), nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("availability_zone", String(255), nullable=False),
    Column("data_timestamp", DateTime, nullable=False),
    Column("stored_id", String(36), nullable=False),  # the id its objects carry in the store
    Column("held_file", String(255)),  # the file of the volume that the next incremental one starts from
    Column("fault", Text),
    *times(),
    Column("content_bytes", BigInteger),  # what a restore writes at most; unknown of an imported one
    Index("ix_backups_project", "project_id", "seq"),
    Index("ix_backups_volume", "volume_id", "seq"),
    Index("ix_backups_parent", "parent_id"),
)

assisted_snapshots = Table(
    "assisted_snapshots",
    metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    *owned(),
    Column("server_id", String(36), nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("status", String(32), nullable=False),
    Column("progress", Integer, nullable=False),
    Column("quiesce", String(16), nullable=False),
    Column("consistency", JSON(none_as_null=True)),
    Column("volumes", JSON, nullable=False),
    Column("excluded_disks", JSON, nullable=False),
    Column("fault", Text),
    *times(),
    Column("policy_id", String(36)),  # which policy made it; no request can set it
    Column("warnings", JSON(none_as_null=True)),  # sentences
    Column("retired_at", DateTime),  # when its policy first no longer kept it
    Column("switched_at", DateTime),  # not before this the disks were switched, all at once; null: not known, or not yet
    Column("switched_at_uncertainty_ms", Float),  # and not later than so much after it
    Column("switched_at_note", Text),  # why it is not known, or not known better
    Index("ix_assisted_project", "project_id", "seq"),
    Index("ix_assisted_server", "server_id", "seq"),
    Index("ix_assisted_policy", "policy_id", "seq"),
)

server_settings = Table(
    "server_settings",
    metadata,
    Column("server_id", String(36), primary_key=True),  # libvirt knows the server; there is no table of them
    Column("project_id", String(255), nullable=False),
    Column("quiesce", String(16)),  # null, here and below: as the deployment has it
    Column("allow_unfreezable", JSON(none_as_null=True)),  # mount points and types of filesystems
    Column("hook_timeout", Integer),  # seconds
    *times(),
)

adopted_disks = Table(
    "adopted_disks",
    metadata,
    Column("server_id", String(36), primary_key=True),
    Column("target", String(32), primary_key=True),  # of the disk in the server's definition: vda
    Column("file", Text, nullable=False),  # the path of the base in it
    Column("volume_id", String(36), nullable=False, unique=True),
    *times(),
    Column("ends_chain", Boolean, nullable=False),  # the definition said that nothing is behind the file
)

snapshot_policies = Table(
    "snapshot_policies",
    metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    *owned(),
    Column("server_id", String(36), nullable=False),
    Column("schedule", String(128)),  # cron's five fields; null: nothing is taken
    Column("timezone", String(64), nullable=False),
    Column("quiesce", String(16), nullable=False),
    Column("volumes", JSON, nullable=False),  # "all" or ids
    Column("keep_last", Integer, nullable=False),  # 0: the rule is off
    Column("keep_hourly", Integer, nullable=False),
    Column("keep_daily", Integer, nullable=False),
    Column("keep_weekly", Integer, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("next_run", DateTime),  # when something is to be done; moved by whoever does it, before it is done
    Column("due_at", DateTime),  # the time of the run that was begun and is not through
    Column("trying_since", DateTime),  # when that run was begun
    Column("last_run", DateTime),
    Column("last_set_id", String(36)),
    Column("last_error", Text),
    Column("retention_error", Text),  # what stands in the way of the next deletion
    Column("retention_note", Text),  # which set was deleted last although a rule kept it, and why
    *times(),
    Index("ix_policies_project", "project_id", "seq"),
    Index("ix_policies_server", "server_id", "seq"),
    Index("ix_policies_due", "next_run"),
)

operations = Table(
    "operations",
    metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("id", String(36), nullable=False, unique=True),
    Column("service", String(16), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("intent", JSON, nullable=False),  # what was asked, as the plan was made from it
    Column("plan", JSON, nullable=False),  # [{"verb", "args"}]
    Column("step", Integer, nullable=False),  # how many steps are recorded as done
    Column("evidence", JSON, nullable=False),  # what the steps found, by verb
    Column("owner", String(255)),
    Column("epoch", Integer, nullable=False),
    Column("lease_until", Float, nullable=False),  # seconds since the epoch
    Column("attempts", Integer, nullable=False),
    Column("fault", JSON(none_as_null=True)),  # the error's document
    Column("bytes", BigInteger, nullable=False),  # copied between layers
    Column("request_id", String(64), nullable=False),
    *times(),
    Column("project_id", String(255), nullable=False, default=""),  # projects take turns; "": nobody's in particular
    Column("cancel_asked", Integer, nullable=False, default=0),  # 1: somebody wants it to end as it stands
    Column("unneeded_since", DateTime),  # null: it has not ended, or a person abandoned it
    Column("version", Integer, nullable=False, default=1),  # of what the kind's intent and steps may hold
    Index("ix_operations_unneeded", "unneeded_since", "state"),
    Index("ix_operations_state", "service", "state", "seq"),
    Index("ix_operations_project", "service", "project_id", "state", "seq"),
    Index("ix_operations_due", "service", "state", "lease_until", "project_id"),
)

operation_totals = Table(
    "operation_totals",
    metadata,
    Column("service", String(16), primary_key=True),
    Column("kind", String(64), primary_key=True),
    Column("state", String(16), primary_key=True),  # "done" or "undone"
    Column("amount", BigInteger, nullable=False),  # of operations that ended so, those that were pruned too
    Column("bytes", BigInteger, nullable=False),  # that they copied
)

known_volumes = Table(
    "known_volumes",
    metadata,
    Column("id", String(36), primary_key=True),  # of every volume that an operation was ever about
)

operation_resources = Table(
    "operation_resources",
    metadata,
    Column("operation_id", String(36), ForeignKey("operations.id"), primary_key=True),
    Column("resource", String(64), primary_key=True),  # "volume:<id>" or "server:<id>"
    Column("unfinished", Integer, nullable=False),
    Column("shared", Integer, nullable=False),  # 1: others that only read run beside it
    Index("ix_operation_resources_resource", "resource", "unfinished"),
)

"""Every option of ``stillframe.conf``: its section, its default, and what it does. ``config`` reads them."""

from oslo_config import cfg

DEFAULT_OPTS = [
    cfg.StrOpt(
        "state_dir",
        default="/var/lib/stillframe",
        help="Directory of the database, credentials, freeze records and sockets. Must be on a local file system.",
    ),
    cfg.StrOpt(
        "database",
        help="SQLAlchemy URL with its driver, e.g. sqlite:////path. Default: stillframe.sqlite in state_dir.",
    ),
    cfg.StrOpt("availability_zone", default="nova", help="The availability zone both services show."),
    cfg.StrOpt("host", help="The name of this host in service lists and operation leases. Default: its host name."),
    cfg.IntOpt(
        "lease_seconds", default=30, min=5, help="How long an operation stays with a worker that does not answer any more."
    ),
    cfg.IntOpt(
        "finished_operations_days",
        default=30,
        min=0,
        help="How many days to keep operations that have ended; 0: for ever. Operations that a person abandoned, parked ones,"
        " and those younger than the oldest operation that has not ended are always kept.",
    ),
    cfg.IntOpt(
        "workers",
        default=4,
        min=1,
        max=64,
        help="Operations one worker process runs at once, per share. One more may run if its project has none under way.",
    ),
    cfg.IntOpt(
        "max_connections",
        default=2000,
        min=16,
        max=20000,
        help="HTTP connections each service keeps open. For one more, it closes the one that has waited longest for its"
        " client.",
    ),
    cfg.IntOpt(
        "max_connections_per_peer",
        default=500,
        min=4,
        max=20000,
        help="How many of these one address may have (for IPv6, one /64 network). The proxies in trusted_proxies may have all;"
        " the limit then holds for the requests that one client behind them has under way.",
    ),
    cfg.ListOpt(
        "trusted_proxies",
        default=[],
        help="Addresses and networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed. These headers are"
        " ignored from anybody else.",
    ),
    cfg.StrOpt(
        "cafile",
        help="CA certificates that verify the services: clouds.yaml names this file, and compute verifies storage_endpoint with"
        " it. Default: those of the system.",
    ),
    cfg.ListOpt("enabled_backends", default=["local"], help="Sections of this file, each of which describes a backend."),
    cfg.StrOpt(
        "default_project",
        default="demo",
        deprecated_group="compute",  # where it was once; any text is a valid value, so reading it there cannot fail
        help="Project of the users that the first start creates, and of domains that name none in their libvirt metadata.",
    ),
]


def _front_opts(example: str) -> list[cfg.Opt]:
    """The options that say how clients reach a service."""
    return [
        cfg.StrOpt(
            "tls_certificate",
            help="The port's certificate in PEM, followed by those of its issuers. With it the port speaks only TLS. Read again"
            " on SIGHUP.",
        ),
        cfg.StrOpt("tls_key", help="Key of that certificate, in PEM and without a password; keep it at mode 0600."),
        cfg.StrOpt("tls_client_cafile", help="If set, the port accepts only clients with a certificate from one of these CAs."),
        cfg.StrOpt(
            "public_endpoint",
            help=f"URL that clients use, without the version, e.g. {example}. Links and clouds.yaml show it. Set it when a"
            " proxy stands in front or the certificate names a host. Default: the address and port it listens on; for links,"
            " what the request says.",
        ),
    ]


VOLUMES_OPTS = [
    cfg.StrOpt("listen", default="127.0.0.1", help="Address the block storage API listens on."),
    cfg.PortOpt("port", default=8776, help="Port of the block storage API; 0 takes a free one."),
    *_front_opts("https://cloud.example.org:8776"),
    cfg.StrOpt("share_dir", help="Directory of the local backend. Default: share in state_dir."),
    cfg.IntOpt("max_chain_depth", default=64, min=2, max=200, help="Most files in one backing chain, snapshots + 1."),
    cfg.IntOpt(
        "chain_depth_warning",
        default=32,
        min=2,
        max=200,
        help="A new set carries a warning when a backing chain has at least this many files.",
    ),
    cfg.IntOpt("minimum_free_mib", default=64, min=1, help="Free space in MiB below which nothing new is created."),
    cfg.IntOpt("quota_volumes", default=1000, min=-1, help="Volumes per project; -1 is unlimited."),
    cfg.IntOpt("quota_snapshots", default=10000, min=-1, help="Snapshots per project; -1 is unlimited."),
    cfg.IntOpt(
        "quota_gigabytes", default=100000, min=-1, help="Virtual GiB of volumes and snapshots per project; -1: no limit."
    ),
    cfg.IntOpt("quota_backups", default=1000, min=-1, help="Backups per project; -1 is unlimited."),
    cfg.IntOpt("quota_backup_gigabytes", default=100000, min=-1, help="Virtual GiB of volumes in a project's backups."),
    cfg.IntOpt("quota_snapshots_per_volume", default=-1, min=-1, help="Snapshots per volume; -1: max_chain_depth decides."),
    cfg.IntOpt("quota_groups", default=10, min=-1, help="Volume groups per project; -1 is unlimited."),
    cfg.IntOpt("per_volume_gigabytes", default=65536, min=1, help="Largest volume in GiB."),
    cfg.StrOpt("backup_url", help="The backup store: file:///DIRECTORY or s3://BUCKET/PREFIX. Default: backups in state_dir."),
    cfg.StrOpt(
        "staging_dir", help="Directory for files on their way to and from images and backups. Default: staging in state_dir."
    ),
    cfg.StrOpt("backup_s3_endpoint", help="URL of the S3 service. Default: Amazon's."),
    cfg.StrOpt("backup_s3_region", help="Region of the S3 service."),
    cfg.StrOpt(
        "backup_s3_credentials_file", help="AWS credentials file for S3; keep it at mode 0600. Default: where boto3 looks."
    ),
]
BACKEND_OPTS = [
    cfg.StrOpt(
        "volume_driver", default="local", choices=["local", "nfs", "glusterfs", "iscsi"], help="What kind of share it is."
    ),
    cfg.StrOpt(
        "volume_backend_name",
        help="The name that volume types select in the extra spec volume_backend_name. Default: the section.",
    ),
    cfg.StrOpt(
        "share_dir", help="local: the directory. Default: [volumes] share_dir. iscsi: a directory on XFS (reflink=1) or btrfs."
    ),
    cfg.StrOpt(
        "target_ip_address", default="127.0.0.1", help="iscsi: the address at which hypervisors reach the target daemon."
    ),
    cfg.PortOpt("target_port", default=3260, help="iscsi: its port."),
    cfg.StrOpt("target_prefix", default="iqn.2010-10.org.openstack:", help="iscsi: the beginning of every target's name."),
    cfg.StrOpt("tgt_socket", default="/var/run/tgtd/socket.0", help="iscsi: the management socket of tgtd on this host."),
    cfg.StrOpt("nfs_shares_config", help="nfs: file with one export per line, as Cinder's."),
    cfg.StrOpt("nfs_mount_options", help="nfs: mount options for all exports, e.g. vers=4.2."),
    cfg.StrOpt("nfs_mount_point_base", help="nfs: directory of the mount points. Default: mnt in state_dir."),
    cfg.StrOpt("glusterfs_shares_config", help="glusterfs: file with one export per line, as Cinder's."),
    cfg.StrOpt("glusterfs_mount_point_base", help="glusterfs: directory of the mount points. Default: mnt in state_dir."),
    cfg.StrOpt(
        "volume_format",
        default="qcow2",
        choices=[("qcow2", "thin, grows as it is written"), ("raw", "raw until its first snapshot, and again after its last")],
        help="Format of new volumes. Those of an iscsi backend are always raw.",
    ),
    cfg.FloatOpt("max_over_subscription_ratio", default=20.0, min=1.0, help="Virtual GiB promised per GiB of the share."),
    cfg.IntOpt("reserved_percentage", default=0, min=0, max=90, help="Part of the share that is never promised."),
    cfg.FloatOpt("probe_seconds", default=5.0, min=0.5, help="How long the share may take to answer."),
]
COMPUTE_OPTS = [
    cfg.StrOpt("listen", default="127.0.0.1", help="Address the compute API listens on."),
    cfg.PortOpt("port", default=8774, help="Port of the compute API; 0 takes a free one."),
    *_front_opts("https://cloud.example.org:8774"),
    cfg.StrOpt("libvirt_uri", help="libvirt to use. Default: a private daemon below state_dir."),
    cfg.StrOpt("storage_endpoint", help="Endpoint of block storage. Default: that of the state directory."),
    cfg.FloatOpt(
        "freeze_deadline_seconds", default=10.0, min=1.0, help="The watchdog thaws the guest after this many seconds."
    ),
    cfg.IntOpt("agent_timeout_seconds", default=2, min=1, help="How long the guest agent may take to answer a ping."),
    cfg.IntOpt("flush_timeout_seconds", default=10, min=0, help="How long the flush before a freeze may take; 0: none."),
    cfg.StrOpt(
        "quiesce",
        default="preferred",
        choices=["preferred", "required", "never"],
        help="Whether to freeze the guest for an assisted snapshot, if neither the request nor the server's settings say."
        " preferred: snapshot a guest that cannot be frozen all the same, and say so; required: refuse; never: do not freeze.",
    ),
    cfg.IntOpt(
        "policy_wait_seconds",
        default=3600,
        min=0,
        max=86400,
        help="How long a snapshot policy waits for a busy server before it counts the run as missed.",
    ),
    cfg.IntOpt(
        "hook_timeout_seconds",
        default=60,
        min=1,
        max=600,
        help="How long the freeze hooks inside a guest may take, before the freeze and again after the thaw.",
    ),
    cfg.BoolOpt(
        "expedite_freeze",
        default=True,
        help="Sets /sys/kernel/rcu_expedited inside a Linux guest during a freeze, where its agent can, and restores the former"
        " value after the thaw. The freeze is several times shorter, but during it the guest's kernel interrupts all of its"
        " CPUs more often. Turn it off for guests with real-time work.",
    ),
    cfg.IntOpt(
        "attach_wait_seconds",
        default=60,
        min=1,
        max=3600,
        help="How long attaching or detaching a volume may wait for others to attach to or detach from the same server.",
    ),
    cfg.IntOpt("detach_timeout_seconds", default=20, min=1, help="How long a guest may take to release a disk."),
    cfg.StrOpt(
        "native_mode",
        default="overlay",
        choices=[
            ("overlay", "while the guest runs again, on scratch overlays"),
            ("frozen", "while the guest is frozen, which needs no room in scratch_dir and lasts as long as block storage does"),
        ],
        help="When block storage takes the snapshots of a running server's iSCSI volumes for a set.",
    ),
    cfg.StrOpt(
        "scratch_dir",
        help="Directory for a running server's writes to iSCSI volumes while block storage takes the snapshots of a set."
        " Default: scratch in state_dir.",
    ),
    cfg.IntOpt(
        "scratch_limit_mib",
        default=4096,
        min=1,
        help="MiB that are reserved there for one volume's writes; a snapshot that is not taken when three quarters are used is"
        " given no more time.",
    ),
    cfg.IntOpt(
        "native_timeout_seconds", default=600, min=1, help="How long block storage may take for the native snapshots of a set."
    ),
    cfg.IntOpt("max_merges", default=2, min=1, max=64, help="Live merges of snapshots that run at once on this host."),
    cfg.IntOpt(
        "max_merges_per_share", default=2, min=1, max=64, help="How many of these may work on files of one share at once."
    ),
    cfg.IntOpt("merge_bandwidth_mib", default=0, min=0, help="MiB a second one live merge may copy; 0: no limit."),
    cfg.StrOpt(
        "mount_point_base",
        help="Directory of the mount points of NFS and GlusterFS shares on this host. Default: what block storage says.",
    ),
    cfg.StrOpt(
        "iscsi_initiator_name",
        help="The initiator name that QEMU uses at iSCSI targets. Default: one that is made once and kept in state_dir.",
    ),
    cfg.StrOpt(
        "my_block_storage_ip",
        help="This host's address in the storage network; compute reports it to block storage. Default: the address of the"
        " default route.",
    ),
    cfg.BoolOpt(
        "merge_oldest_at_soft_limit",
        default=False,
        help="At block storage's chain_depth_warning, delete the oldest set that a snapshot policy made, whatever the policy"
        " keeps, but never one that is labelled keep.",
    ),
    cfg.IntOpt("max_volumes_per_set", default=128, min=1, max=128, help="Most volumes in one assisted snapshot."),
]


def _identity_opts(needs: str) -> list[cfg.Opt]:
    """The user as whom a service signs in at Keystone. The password is in a file of its own, never here."""
    return [
        cfg.StrOpt("auth_url", help="Keystone's URL, e.g. https://keystone.example.org/v3."),
        cfg.StrOpt("username", help=f"User Stillframe signs in as. {needs}"),
        cfg.StrOpt("password_file", help="File that holds the user's password and nothing else; keep it at mode 0600."),
        cfg.StrOpt("user_domain_name", default="Default", help="Domain of the user."),
        cfg.StrOpt("project_name", default="service", help="Project the user acts in."),
        cfg.StrOpt("project_domain_name", default="Default", help="Domain of the project."),
        cfg.StrOpt("cafile", help="Certificates to trust. Default: those of the system."),
        cfg.IntOpt("timeout_seconds", default=30, min=1, help="How long Keystone may take to answer."),
    ]


AUTH_OPTS: list[cfg.Opt] = [
    cfg.StrOpt(
        "strategy",
        default="http_basic",
        choices=[("http_basic", "users.yaml in state_dir"), ("keystone", "Keystone, as configured below [keystone]")],
        help="Who authenticates callers.",
    ),
]
KEYSTONE_OPTS: list[cfg.Opt] = [
    cfg.StrOpt("www_authenticate_uri", help="Keystone's URL that a 401 shows to callers. Default: auth_url."),
    *_identity_opts("It needs the role service."),
    cfg.IntOpt("cache_seconds", default=60, min=0, max=300, help="How long a validated token is believed; 0: not at all."),
]
IMAGE_OPTS: list[cfg.Opt] = [
    cfg.StrOpt(
        "auth_type",
        default="none",
        choices=[("none", "not at all; set endpoint"), ("password", "at Keystone, with the options below")],
        help="How Stillframe signs in at the image service.",
    ),
    cfg.StrOpt("endpoint", help="URL of the image service. Default with password: the one in Keystone's catalog."),
    cfg.StrOpt("region", help="Region of that catalog entry. Default: any."),
    *_identity_opts("It needs the role admin, because it acts for every project."),
]
LOG_OPTS: list[cfg.Opt] = [cfg.BoolOpt("json", default=False, help="Log lines as JSON, with request and operation ids.")]
GROUPS: dict[str | None, list[cfg.Opt]] = {
    None: DEFAULT_OPTS,
    "volumes": VOLUMES_OPTS,
    "local": BACKEND_OPTS,
    "compute": COMPUTE_OPTS,
    "auth": AUTH_OPTS,
    "keystone": KEYSTONE_OPTS,
    "image": IMAGE_OPTS,
    "log": LOG_OPTS,
}
# Options that name a file which is itself a part of the configuration.
NAMED_FILES = (
    "password_file",
    "cafile",
    "tls_certificate",
    "tls_key",
    "tls_client_cafile",
    "backup_s3_credentials_file",
    "nfs_shares_config",
    "glusterfs_shares_config",
)
# The sections that only one of the services reads. The other service ignores them.
OF_SERVICE = {"volumes": ("volumes", "local", "image"), "compute": ("compute",)}

"""Configuration: the options of ``stillframe.conf``, loaded once and handed in as ``Settings``."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from oslo_config import cfg

from stillframe import trust
from stillframe.errors import BadConfiguration

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
        help="How long operations that have ended are kept, in days; 0: for ever. Those that a person abandoned, those that are"
        " parked, and what is younger than the oldest operation that has not ended, stay.",
    ),
    cfg.IntOpt(
        "workers",
        default=4,
        min=1,
        max=64,
        help="Operations one worker process runs at once, per share. One more may run, of a project that has none under way.",
    ),
    cfg.IntOpt(
        "max_connections",
        default=2000,
        min=16,
        max=20000,
        help="HTTP connections each service keeps open; for one more, the one is closed that has waited longest for its"
        " client.",
    ),
    cfg.IntOpt(
        "max_connections_per_peer",
        default=500,
        min=4,
        max=20000,
        help="Of these, how many one address may have (of IPv6, one /64 network). Raise it where a proxy stands in front.",
    ),
    cfg.ListOpt("enabled_backends", default=["local"], help="Sections below that describe a backend of block storage each."),
    cfg.StrOpt(
        "default_project",
        default="demo",
        deprecated_group="compute",  # where it was once; a text is never a value that cannot be read
        help="Project of the users that are made at the first start, and of domains that name none in their libvirt metadata.",
    ),
]
VOLUMES_OPTS = [
    cfg.StrOpt("listen", default="127.0.0.1", help="Address the block storage API listens on."),
    cfg.PortOpt("port", default=8776, help="Port of the block storage API; 0 takes a free one."),
    cfg.StrOpt("share_dir", help="Directory of the local backend. Default: share in state_dir."),
    cfg.IntOpt("max_chain_depth", default=64, min=2, max=200, help="Most files in one backing chain, snapshots + 1."),
    cfg.IntOpt(
        "chain_depth_warning",
        default=32,
        min=2,
        max=200,
        help="Files in one backing chain from which on a set that is taken carries a warning.",
    ),
    cfg.IntOpt("minimum_free_mib", default=64, min=1, help="Free space in MiB below which nothing new is created."),
    cfg.IntOpt("quota_volumes", default=1000, min=-1, help="Volumes per project; -1 is unlimited."),
    cfg.IntOpt("quota_snapshots", default=10000, min=-1, help="Snapshots per project; -1 is unlimited."),
    cfg.IntOpt("quota_gigabytes", default=100000, min=-1, help="Virtual GiB of volumes per project; -1 is unlimited."),
    cfg.IntOpt("quota_backups", default=1000, min=-1, help="Backups per project; -1 is unlimited."),
    cfg.IntOpt("quota_backup_gigabytes", default=100000, min=-1, help="Virtual GiB of volumes in a project's backups."),
    cfg.IntOpt("quota_snapshots_per_volume", default=-1, min=-1, help="Snapshots per volume; -1: max_chain_depth decides."),
    cfg.IntOpt("per_volume_gigabytes", default=65536, min=1, help="Largest volume in GiB."),
    cfg.StrOpt("backup_url", help="Where backups lie: file:///DIRECTORY or s3://BUCKET/PREFIX. Default: backups in state_dir."),
    cfg.StrOpt(
        "staging_dir", help="Where files lie on their way to and from images and backups. Default: staging in state_dir."
    ),
    cfg.StrOpt("backup_s3_endpoint", help="URL of the S3 service. Default: Amazon's."),
    cfg.StrOpt("backup_s3_region", help="Region of the S3 service."),
    cfg.StrOpt(
        "backup_s3_credentials_file", help="AWS credentials file for S3; keep it at mode 0600. Default: where boto3 looks."
    ),
]
BACKEND_OPTS = [
    cfg.StrOpt("volume_driver", default="local", choices=["local", "nfs", "glusterfs"], help="What kind of share it is."),
    cfg.StrOpt("volume_backend_name", help="What a volume type's extra spec of this name asks for. Default: the section."),
    cfg.StrOpt("share_dir", help="local: the directory. Default: [volumes] share_dir."),
    cfg.StrOpt("nfs_shares_config", help="nfs: file with one export per line, as Cinder's."),
    cfg.StrOpt("nfs_mount_options", help="nfs: mount options for all exports, e.g. vers=4.2."),
    cfg.StrOpt("nfs_mount_point_base", help="nfs: directory of the mount points. Default: mnt in state_dir."),
    cfg.StrOpt("glusterfs_shares_config", help="glusterfs: file with one export per line, as Cinder's."),
    cfg.StrOpt("glusterfs_mount_point_base", help="glusterfs: directory of the mount points. Default: mnt in state_dir."),
    cfg.StrOpt(
        "volume_format",
        default="qcow2",
        choices=[("qcow2", "thin, grows as it is written"), ("raw", "raw until its first snapshot, and again after its last")],
        help="What new volumes are.",
    ),
    cfg.FloatOpt("max_over_subscription_ratio", default=20.0, min=1.0, help="Virtual GiB promised per GiB of the share."),
    cfg.IntOpt("reserved_percentage", default=0, min=0, max=90, help="Part of the share that is never promised."),
    cfg.FloatOpt("probe_seconds", default=5.0, min=0.5, help="How long the share may take to answer."),
]
COMPUTE_OPTS = [
    cfg.StrOpt("listen", default="127.0.0.1", help="Address the compute API listens on."),
    cfg.PortOpt("port", default=8774, help="Port of the compute API; 0 takes a free one."),
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
        help="What an assisted snapshot does about a guest that cannot be frozen, where neither the request nor the server's"
        " settings say: take it and say so, refuse, or do not freeze.",
    ),
    cfg.IntOpt(
        "policy_wait_seconds",
        default=3600,
        min=0,
        max=86400,
        help="How long the run of a snapshot policy waits for a server that is busy before it is missed.",
    ),
    cfg.IntOpt(
        "hook_timeout_seconds",
        default=60,
        min=1,
        max=600,
        help="How long the freeze hooks inside a guest may take, before the freeze and again after the thaw.",
    ),
    cfg.BoolOpt(
        "hasten_freeze",
        default=True,
        help="Sets /sys/kernel/rcu_expedited inside a Linux guest for the time of a freeze, where its agent can; the former"
        " value is put back after the thaw. The freeze is several times shorter; meanwhile the guest's kernel interrupts"
        " all of its CPUs more often. Turn it off for guests with real-time work.",
    ),
    cfg.IntOpt(
        "attach_wait_seconds",
        default=60,
        min=1,
        max=3600,
        help="How long attaching or detaching a volume may wait for others that attach or detach at the same server.",
    ),
    cfg.IntOpt("detach_timeout_seconds", default=20, min=1, help="How long a guest may take to release a disk."),
    cfg.IntOpt("max_merges", default=2, min=1, max=64, help="Live merges of snapshots that run at once on this host."),
    cfg.IntOpt(
        "max_merges_per_share", default=2, min=1, max=64, help="Of these, how many may work on files of one share at once."
    ),
    cfg.IntOpt("merge_bandwidth_mib", default=0, min=0, help="MiB a second one live merge may copy; 0: no limit."),
    cfg.StrOpt(
        "mount_point_base", help="Where NFS and GlusterFS shares are mounted on this host. Default: as block storage says."
    ),
    cfg.BoolOpt(
        "merge_oldest_at_soft_limit",
        default=False,
        help="At block storage's chain_depth_warning the oldest set that a snapshot policy made is deleted, whatever the policy"
        " keeps; never one that is labelled keep.",
    ),
    cfg.IntOpt("max_volumes_per_set", default=128, min=1, max=128, help="Most volumes in one assisted snapshot."),
]


def _identity_opts(needs: str) -> list[cfg.Opt]:
    """As whom a service signs in at Keystone. The secret stands in a file of its own, never here."""
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
        help="Who vouches for callers.",
    ),
]
KEYSTONE_OPTS: list[cfg.Opt] = [
    cfg.StrOpt("www_authenticate_uri", help="Keystone's URL as callers are told it on a 401. Default: auth_url."),
    *_identity_opts("It needs the role service."),
    cfg.IntOpt("cache_seconds", default=60, min=0, max=300, help="How long a validated token is believed; 0: not at all."),
]
IMAGE_OPTS: list[cfg.Opt] = [
    cfg.StrOpt(
        "auth_type",
        default="none",
        choices=[("none", "not at all; endpoint must be set"), ("password", "at Keystone, with the options below")],
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
# Options that name a file which is read as a part of the configuration.
NAMED_FILES = ("password_file", "cafile", "backup_s3_credentials_file", "nfs_shares_config", "glusterfs_shares_config")
# The sections that only one of the services reads; whatever stands in the other's is nothing to it.
OF_SERVICE = {"volumes": ("volumes", "local", "image"), "compute": ("compute",)}


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Entry point of oslo.config: what ``oslo-config-generator --namespace stillframe`` writes."""
    return [(group or "DEFAULT", list(options)) for group, options in GROUPS.items()]


class Unread:
    """Stands for a section of the other service."""

    def __init__(self, section: str) -> None:
        self._section = section

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"section [{self._section}] is the other service's: {name} is not to be read here")


@dataclass(frozen=True)
class Settings:
    """The loaded configuration: one attribute per option, grouped as in the file. ``volumes``, ``image`` and ``backends`` are
    block storage's, ``compute`` is compute's; a service has only its own (see ``of``)."""

    state_dir: Path
    database: str
    availability_zone: str
    host: str
    default_project: str
    lease_seconds: int
    finished_operations_days: int
    workers: int
    max_connections: int
    max_connections_per_peer: int
    volumes: Any
    compute: Any
    auth: Any
    keystone: Any
    image: Any
    log_json: bool
    backends: Mapping[str, Any]  # by section, in the order of enabled_backends

    def of(self, service: str) -> "Settings":
        """Returns what "volumes" or "compute" may read of this."""
        if service == "compute":
            return replace(self, volumes=Unread("volumes"), image=Unread("image"), backends={})
        return replace(self, compute=Unread("compute"))

    def reads(self, section: str) -> bool:
        """Tells whether "volumes" or "compute" is among what was loaded, and is for who has this."""
        return not isinstance(getattr(self, section), Unread)

    @property
    def is_embedded(self) -> bool:
        """Whether the database is the file in the state directory, which nobody else uses."""
        return self.database == _default_database(self.state_dir)

    @property
    def users_file(self) -> Path:
        return self.state_dir / "users.yaml"

    @property
    def clouds_file(self) -> Path:
        return self.state_dir / "clouds.yaml"

    @property
    def share_dir(self) -> Path:
        return Path(self.volumes.share_dir or self.state_dir / "share")

    @property
    def backup_url(self) -> str:
        return str(self.volumes.backup_url or (self.state_dir / "backups").as_uri())

    @property
    def staging_dir(self) -> Path:
        return Path(self.volumes.staging_dir or self.state_dir / "staging")

    def api_socket(self, service: str) -> Path:
        """Where "volumes" or "compute" listens for the other service."""
        return self.state_dir / f"api-{service}.sock"

    @property
    def freeze_dir(self) -> Path:
        return self.state_dir / "freeze"


def load(
    files: Sequence[str] = (),
    overrides: dict[tuple[str | None, str], Any] | None = None,
    service: str | None = None,
) -> Settings:
    """Reads the configuration files in order; ``overrides`` maps (group, option) to a value that wins over them. For one
    ``service``, "volumes" or "compute", the sections of the other are not looked at.

    Raises BadConfiguration for a file that cannot be read or that others may change, or an option that is not valid.
    """
    for file in files:
        trust.require_way(trust.resolved(Path(file), "the configuration"), "the configuration")
    others = {name for other, names in OF_SERVICE.items() if service not in (None, other) for name in names}
    groups = {name: options for name, options in GROUPS.items() if name not in others}
    conf = cfg.ConfigOpts()
    for group, options in groups.items():
        conf.register_opts(options, group=group)
    try:
        conf([], project="stillframe", default_config_files=list(files))
        sections = _backend_sections(conf) if "volumes" in groups else []
        for (group, name), value in (overrides or {}).items():
            if value is not None and group in groups:
                conf.set_override(name, value, group=group)
        for group, options in groups.items():
            for option in options:  # oslo.config looks at a value only when it is read
                _ = conf[option.dest] if group is None else conf[group][option.dest]
        _require_named_files(conf, [*[group for group in groups if group], *sections])
        return _settings(conf, sections)
    except (cfg.Error, ValueError) as error:
        raise BadConfiguration(f"the configuration is not usable: {error}") from error


def _require_named_files(conf: cfg.ConfigOpts, groups: Sequence[str]) -> None:
    """Whoever may change a list of shares, a password or the certificates that are trusted has changed the configuration."""
    for group in groups:
        section = conf[group]
        for name in set(NAMED_FILES) & set(section):
            path = section[name]
            if path:
                trust.require_way(trust.resolved(Path(path), name), name)


def _backend_sections(conf: cfg.ConfigOpts) -> list[str]:
    """Registers and reads the options of every enabled backend. Raises BadConfiguration for a section that cannot be one."""
    sections = list(dict.fromkeys(conf.enabled_backends))
    for name in sections:
        if not name.isidentifier() or (name in GROUPS and name != "local"):
            raise BadConfiguration(f"enabled_backends names {name!r}, which cannot be a backend's section")
        conf.register_opts(BACKEND_OPTS, group=name)
        for option in BACKEND_OPTS:
            _ = conf[name][option.dest]
    if not sections:
        raise BadConfiguration("enabled_backends names no backend")
    return sections


def _default_database(state_dir: Path) -> str:
    if "?" in str(state_dir):  # ends the path in a URL of SQLAlchemy, and cannot be written otherwise there
        raise BadConfiguration(
            f"state_dir {state_dir} has a '?' in its name: the database would lie beside it, in a file named by what comes"
            " before; choose another directory"
        )
    return f"sqlite:///{state_dir}/stillframe.sqlite"


def _settings(conf: cfg.ConfigOpts, sections: Sequence[str]) -> Settings:
    state_dir = trust.resolved(Path(conf.state_dir), "state_dir")
    return Settings(
        state_dir=state_dir,
        database=conf.database or _default_database(state_dir),
        availability_zone=conf.availability_zone,
        host=conf.host or os.uname().nodename,
        default_project=conf.default_project,
        lease_seconds=conf.lease_seconds,
        finished_operations_days=conf.finished_operations_days,
        workers=conf.workers,
        max_connections=conf.max_connections,
        max_connections_per_peer=conf.max_connections_per_peer,
        volumes=_section(conf, "volumes"),
        compute=_section(conf, "compute"),
        auth=conf.auth,
        keystone=conf.keystone,
        image=_section(conf, "image"),
        log_json=conf.log.json,
        backends={name: conf[name] for name in sections},
    )


def _section(conf: cfg.ConfigOpts, name: str) -> Any:
    return conf[name] if name in conf else Unread(name)

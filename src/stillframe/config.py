"""Configuration: the options of ``stillframe.conf``, loaded once and handed in as ``Settings``."""

import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from oslo_config import cfg

from stillframe import trust
from stillframe.errors import BadConfiguration
from stillframe.options import BACKEND_OPTS, GROUPS, NAMED_FILES, OF_SERVICE
from stillframe.printable import escaped, unsafe


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """The entry point for oslo.config. ``oslo-config-generator --namespace stillframe`` writes these options."""
    return [(group or "DEFAULT", list(options)) for group, options in GROUPS.items()]


class Unread:
    """Stands for a section of the other service."""

    def __init__(self, section: str) -> None:
        self._section = section

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"section [{self._section}] belongs to the other service, so {name} cannot be read here")


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
    trusted_proxies: tuple[str, ...]
    cafile: str | None
    volumes: Any
    compute: Any
    auth: Any
    keystone: Any
    image: Any
    log_json: bool
    backends: Mapping[str, Any]  # by section, in the order of enabled_backends

    def of(self, service: str) -> "Settings":
        """Returns the part that the service "volumes" or "compute" may read."""
        if service == "compute":
            return replace(self, volumes=Unread("volumes"), image=Unread("image"), backends={})
        return replace(self, compute=Unread("compute"))

    def reads(self, section: str) -> bool:
        """Tells whether the section, "volumes" or "compute", was loaded and may be read here."""
        return not isinstance(getattr(self, section), Unread)

    @property
    def is_embedded(self) -> bool:
        """Tells whether the database is the file in the state directory, which nobody else uses."""
        return self.database == _default_database(self.state_dir)

    @property
    def users_file(self) -> Path:
        """The file of users and their password hashes."""
        return self.state_dir / "users.yaml"

    @property
    def clouds_file(self) -> Path:
        """The ``clouds.yaml`` that ``serve`` writes."""
        return self.state_dir / "clouds.yaml"

    @property
    def share_dir(self) -> Path:
        """The directory of the local backend; a default if the configuration names none."""
        return Path(self.volumes.share_dir or self.state_dir / "share")

    @property
    def backup_url(self) -> str:
        """The URL of the backup store; by default a directory in the state directory."""
        return str(self.volumes.backup_url or (self.state_dir / "backups").as_uri())

    @property
    def scratch_dir(self) -> Path:
        """The directory for scratch overlays of native volumes."""
        return Path(self.compute.scratch_dir or self.state_dir / "scratch")

    @property
    def staging_dir(self) -> Path:
        """The directory for downloads and backups while they are under way."""
        return Path(self.volumes.staging_dir or self.state_dir / "staging")

    def api_socket(self, service: str) -> Path:
        """The socket on which "volumes" or "compute" listens for the other service."""
        return self.state_dir / f"api-{service}.sock"

    @property
    def chap_key_file(self) -> Path:
        """The file with the key that the passwords of iSCSI targets are made from."""
        return self.state_dir / "chap.key"

    @property
    def freeze_dir(self) -> Path:
        """The directory with a record of each guest that may be frozen."""
        return self.state_dir / "freeze"


def load(
    files: Sequence[str] = (),
    overrides: dict[tuple[str | None, str], Any] | None = None,
    service: str | None = None,
) -> Settings:
    """Reads the configuration files in order; ``overrides`` maps (group, option) to a value that wins over them. If
    ``service`` is "volumes" or "compute", the sections of the other service are ignored.

    Raises BadConfiguration for a file that cannot be read or that others may change, and for an option that is not valid.
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
            for option in options:  # oslo.config checks a value only when it is read
                _ = conf[option.dest] if group is None else conf[group][option.dest]
        read = [conf, *[conf[group] for group in [*filter(None, groups), *sections]]]
        _require_named_files(read)
        for each in read:
            _require_text(each)
        found = _settings(conf, sections)
    except (cfg.Error, ValueError) as error:
        raise BadConfiguration(f"the configuration is not usable: {error}") from error
    _require_text({"state_dir": str(found.state_dir), "host, by default this host's name": found.host})
    return found


def _require_text(values: Mapping[str, object]) -> None:
    """Rows, requests to the other service and programs can hold or be given nothing else. Raises BadConfiguration."""
    for name, value in values.items():
        found = unsafe(value) if isinstance(value, str) else None
        if found is not None:
            raise BadConfiguration(
                f"{name}: '{escaped(str(value)[:255])}' has {found}, which is no letter of a text (UTF-8); give it another name"
            )


def _require_named_files(sections: Sequence[Any]) -> None:
    """Anyone who may change a list of shares, a password file or the trusted certificates may change the configuration."""
    for section in sections:
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
    if "?" in str(state_dir):  # ends the path in a URL of SQLAlchemy, which knows no way to escape it
        raise BadConfiguration(
            f"state_dir {state_dir} has a '?' in its name: the database's path would end there, outside the directory; choose"
            " another directory"
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
        trusted_proxies=tuple(_networks(conf.trusted_proxies)),
        cafile=str(Path(conf.cafile).absolute()) if conf.cafile else None,
        volumes=_section(conf, "volumes"),
        compute=_section(conf, "compute"),
        auth=conf.auth,
        keystone=conf.keystone,
        image=_section(conf, "image"),
        log_json=conf.log.json,
        backends={name: conf[name] for name in sections},
    )


def _networks(said: Sequence[str]) -> Sequence[str]:
    for each in said:
        try:
            ipaddress.ip_network(each)
        except ValueError as error:
            raise BadConfiguration(f"trusted_proxies: {each!r} is neither an address nor a network: {error}") from error
    return said


def _section(conf: cfg.ConfigOpts, name: str) -> Any:
    return conf[name] if name in conf else Unread(name)

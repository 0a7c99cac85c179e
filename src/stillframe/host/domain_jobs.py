"""Finds what another program does with a domain through libvirt. Facts were seen with libvirt 9.0 (F23).

A long job (backup, migration, save, dump, snapshot) makes every snapshot call wait, for up to 30 s. A call that has not got its
turn by then fails. A call that gets its turn is carried out, however long ago its caller stopped waiting.
"""

from typing import Any

import libvirt

from stillframe.errors import AnotherJob
from stillframe.host.hypervisor import translated

_WORDS = {
    libvirt.VIR_DOMAIN_JOB_OPERATION_START: "start",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE: "save",
    libvirt.VIR_DOMAIN_JOB_OPERATION_RESTORE: "restore",
    libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN: "incoming migration",
    libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT: "migration",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT: "snapshot",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT: "snapshot revert",
    libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP: "dump",
    libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP: "backup",
}
_BLOCK_WORDS = {
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_PULL: "block pull",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COPY: "block copy",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT: "block commit",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT: "active block commit",
}
_NOTHING = (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN_BACKUP)


def find(domain: Any, targets: tuple[str, ...]) -> str | None:
    """Returns what is under way on a domain or on one of its disks ``targets``, such as "a backup job". None: nothing, or the
    domain does not run. Takes less than a millisecond, unless a call holds libvirt's lock: then up to 30 s."""
    try:
        job = _job(domain)
        if job is not None:
            return job
        with translated(f"server {domain.UUIDString()}"):
            if _has_backup(domain):
                return "a backup job"
            for target in targets:
                found = _asked(lambda disk=target: domain.blockJobInfo(disk, 0))
                if found:
                    return f"a {_BLOCK_WORDS.get(found['type'], 'block')} job on disk {target}"
    except AnotherJob:
        return "a call that has held libvirt's lock for 30 s"
    return None


def is_snapshot(domain: Any) -> bool:
    """Tells whether the domain's long job is a snapshot, so that the snapshot call has got its turn. While a call holds
    libvirt's lock, this waits for up to 30 s."""
    with translated(f"server {domain.UUIDString()}"):
        stats = _asked(lambda: domain.jobStats(0))
    return bool(stats and stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT)


def _job(domain: Any) -> str | None:
    with translated(f"server {domain.UUIDString()}"):
        stats = _asked(lambda: domain.jobStats(0))
    if not stats or stats["type"] == libvirt.VIR_DOMAIN_JOB_NONE:
        return None
    return f"a {_WORDS.get(stats.get('operation', -1), 'libvirt')} job"


def _has_backup(domain: Any) -> bool:
    return _asked(lambda: domain.backupGetXMLDesc(0)) is not None


def _asked(question: Any) -> Any:
    """Returns the answer, or None when libvirt has none."""
    try:
        return question()
    except libvirt.libvirtError as error:
        if error.get_error_code() in _NOTHING:
            return None
        raise

"""iSCSI volumes: QEMU's own initiator logs in (block/iscsi.c), so the host needs none.

The password of an attachment is a libvirt secret of the attachment's id. libvirt keeps it in memory alone, so it is made again
before a start; whatever it is by then, block storage is asked.
"""

import re
from collections.abc import Mapping
from typing import Any

from stillframe.chain import names
from stillframe.compute.libvirt import connector, domain_xml
from stillframe.compute.libvirt.connections.contract import Attachment, Document
from stillframe.compute.libvirt.domain_xml import Disk, Unit
from stillframe.compute.libvirt.network_source import NetworkSource
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.worker.context import WorkerContext
from stillframe.errors import BadRequest, ChainConflict, StepFailed
from stillframe.host import hypervisor, iscsi, libvirt_secrets, scratch
from stillframe.host.libvirt_secrets import Secret
from stillframe.host.scratch import Overlay
from stillframe.units import GIB

KIND = "iscsi"
_PORTAL = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9.-]+)):(?P<port>[0-9]{1,5})(?:,[0-9]+)?")
_TARGET = re.compile(r"(?:iqn\.[0-9]{4}-[0-9]{2}\.|eui\.|naa\.)[A-Za-z0-9._:-]{1,210}")
_USAGE = "stillframe"


def source(worker: WorkerContext, attachment: Attachment) -> Document:
    """Everything but the password."""
    info = attachment.info
    where = _where(attachment, connector.initiator(worker.settings))
    return {
        "driver_volume_type": KIND,
        "host": where.host,
        "port": where.port,
        "name": where.name,
        "user": where.user,
        "secret": where.secret,
        "initiator": where.initiator,
        "discard": bool(info.get("discard")),
        "read_only": info.get("access_mode") == "ro",
    }


def prepare(worker: WorkerContext, attachment: Attachment, source: Document) -> list[str]:
    """Logs in, compares the size, and gives libvirt the password."""
    size = _log_in(_of(source), attachment)
    wanted = worker.storage.volume(attachment.volume_id)["size"] * GIB
    if size < wanted:
        raise ChainConflict(
            f"{_of(source)} has {size} bytes, but volume {attachment.volume_id} has {wanted}: it is not that volume, or its"
            " target was not told of an extension"
        )
    _tell_password(worker, attachment)
    return []


def disk(volume_id: str, source: Document, target: str) -> str:
    return domain_xml.network_disk(volume_id, _of(source), target, Unit(source["discard"], source["read_only"]))


def recorded(info: Mapping[str, Any]) -> str:
    return str(_target(info))


def is_same(disk: Disk, info: Mapping[str, Any]) -> bool:
    """By the target and the number of the unit: the way there, and the account, may have changed."""
    found, wanted = disk.network, _target(info)
    return found is not None and (found.protocol, found.name) == (wanted.protocol, wanted.name)


def check_reachable(worker: WorkerContext, attachment: Attachment) -> None:
    """Logs in beside QEMU, whose own session says nothing: it waits for a target that is away."""
    _log_in(_where(attachment, connector.initiator(worker.settings)), attachment)


def check_start(worker: WorkerContext, server: Server, disk: Disk, attachment: Attachment) -> None:
    wanted = _where(attachment, connector.initiator(worker.settings))
    if server.view.saved and disk.network != wanted:
        raise ChainConflict(
            f"the saved memory of server {server.id} belongs to {disk.words} as {disk.target} for volume"
            f" {attachment.volume_id}, but block storage gives it out as {wanted} to another initiator or account; the server"
            " cannot be restored with it. 'virsh managedsave-dumpxml' shows the saved description"
        )
    _log_in(wanted, attachment)


def before_start(worker: WorkerContext, server: Server, disk: Disk, attachment: Attachment) -> None:
    """The definition names the way to the target, and the account, of when the volume was attached. It is changed first: a
    secret that no definition names is removed by and by."""
    wanted = _where(attachment, connector.initiator(worker.settings))
    if disk.network != wanted and not server.view.saved:
        changed = domain_xml.with_source(server.view.inactive_xml or server.view.xml, disk.target, wanted)
        hypervisor.update_definition(worker.hypervisor.domain(server.id), changed)
    _tell_password(worker, attachment)


def commit_scratch(worker: WorkerContext, attachment: Attachment, overlay: Overlay) -> None:
    where = _where(attachment, connector.initiator(worker.settings))
    scratch.commit(overlay, _unit(where), _password(where, attachment))


def release(worker: WorkerContext, attachment_id: str) -> None:
    libvirt_secrets.remove(worker.hypervisor, attachment_id)


def is_own(usage: str, initiator: str) -> bool:
    """Tells whether a secret of that usage was made here: several installations may use one libvirt."""
    return usage.startswith(f"{_USAGE} {initiator} ")


def _tell_password(worker: WorkerContext, attachment: Attachment) -> None:
    password = attachment.info.get("auth_password")
    if password is not None and attachment.info.get("auth_method"):
        usage = f"{_USAGE} {connector.initiator(worker.settings)} {attachment.id}"
        libvirt_secrets.define(worker.hypervisor, Secret(attachment.id, usage, str(password)))


def _log_in(where: NetworkSource, attachment: Attachment) -> int:
    return iscsi.size_of(_unit(where), _password(where, attachment))


def _unit(where: NetworkSource) -> iscsi.Unit:
    host = f"[{where.host}]" if ":" in where.host else where.host
    target, _, lun = where.name.rpartition("/")
    return iscsi.Unit(f"{host}:{where.port}", target, int(lun), str(where.initiator), where.user)


def _password(where: NetworkSource, attachment: Attachment) -> str | None:
    return attachment.info.get("auth_password") if where.user is not None else None


def _of(source: Document) -> NetworkSource:
    named = (source["host"], source["port"], source["user"], source["secret"], source["initiator"])
    return NetworkSource(KIND, source["name"], *named)


def _where(attachment: Attachment, initiator: str) -> NetworkSource:
    """Raises StepFailed for a connection_info that QEMU's initiator cannot serve."""
    info, target = attachment.info, _target(attachment.info)
    if info.get("encrypted"):
        raise StepFailed(f"volume {attachment.volume_id} is encrypted, which this host cannot attach")
    user = secret = None
    if info.get("auth_method"):
        if info["auth_method"] != "CHAP" or not info.get("auth_username") or not info.get("auth_password"):
            raise StepFailed(
                f"block storage wants volume {attachment.volume_id} to be reached with {str(info['auth_method'])[:40]!r} and"
                " gives no account for it, or this host does not know it; it knows CHAP"
            )
        user, secret = str(info["auth_username"]), _canonical(attachment.id)
    return NetworkSource(KIND, target.name, target.host, target.port, user, secret, initiator)


def _canonical(attachment_id: str) -> str:
    try:
        return names.canonical_id(attachment_id, "attachment id")
    except BadRequest as error:
        raise StepFailed(error.message) from error


def _target(info: Mapping[str, Any]) -> NetworkSource:
    """Everything in it came over the network. Raises StepFailed for what is not in Cinder's form."""
    portal, target, lun = (info.get(name) for name in ("target_portal", "target_iqn", "target_lun"))
    found = _PORTAL.fullmatch(portal) if isinstance(portal, str) else None
    if found is None or not 0 < int(found["port"]) < 1 << 16:
        raise StepFailed(f"block storage gives {str(portal)[:80]!r} as target_portal, which is no address with a port")
    if not isinstance(target, str) or not _TARGET.fullmatch(target):
        raise StepFailed(f"block storage gives {str(target)[:80]!r} as target_iqn, which is no iSCSI name")
    if not isinstance(lun, int) or isinstance(lun, bool) or not 0 <= lun < 1 << 14:
        raise StepFailed(f"block storage gives {str(lun)[:80]!r} as target_lun, which is no number of a logical unit")
    return NetworkSource(KIND, f"{target}/{lun}", found["six"] or found["name"], int(found["port"]))

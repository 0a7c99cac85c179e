"""Volumes that are files on a share: QEMU opens them where this host has the share mounted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillframe.chain import image
from stillframe.compute.clients import chain_limits
from stillframe.compute.libvirt import domain_xml, repair, servers
from stillframe.compute.libvirt.connections.contract import Attachment, Document
from stillframe.compute.libvirt.domain_xml import Disk
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.libvirt.shares import share_directory
from stillframe.compute.worker.context import WorkerContext
from stillframe.errors import StepFailed
from stillframe.host import qemu_img, soundness
from stillframe.host.scratch import Overlay


def source(worker: WorkerContext, attachment: Attachment) -> Document:
    """The path of the active file on this host, where its share is mounted."""
    info = attachment.info
    directory = str(share_directory(worker.settings, info))
    known = {key: info.get(key) for key in ("parent_image", "base_file")}
    return {"directory": directory, "name": info["name"], "format": info["format"], **known}


def prepare(_worker: WorkerContext, attachment: Attachment, source: Document) -> list[str]:
    """The whole chain is inspected before QEMU opens it (I6)."""
    share, known = Path(source["directory"]), chain_limits.recorded(source)
    chain = qemu_img.read_chain(share, attachment.volume_id, source["name"], source["format"], known)
    image.check(chain, known)
    return soundness.mend_open(share, chain.images)


def disk(volume_id: str, source: Document, target: str) -> str:
    return domain_xml.volume_disk(volume_id, str(Path(source["directory"]) / source["name"]), source["format"], target)


def recorded(info: Mapping[str, Any]) -> str:
    return str(info["name"])


def is_same(disk: Disk, info: Mapping[str, Any]) -> bool:
    return disk.name == str(info["name"])


def check_reachable(worker: WorkerContext, attachment: Attachment) -> None:
    """Its directory is there."""
    share_directory(worker.settings, attachment.info)


def check_start(_worker: WorkerContext, server: Server, disk: Disk, attachment: Attachment) -> None:
    """A start of a file that is missing fails with QEMU's own message."""
    servers.check_format(server, disk, attachment.info)


def before_start(_worker: WorkerContext, _server: Server, disk: Disk, attachment: Attachment) -> None:
    repair.before_start(disk, attachment.volume_id, chain_limits.recorded(attachment.info))


def commit_scratch(_worker: WorkerContext, attachment: Attachment, _overlay: Overlay) -> None:
    """Never asked for: a file has overlays of its own."""
    raise StepFailed(f"volume {attachment.volume_id} is a file, which has no scratch overlay")


def release(_worker: WorkerContext, _attachment_id: str) -> None:
    """Nothing was made."""

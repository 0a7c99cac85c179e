"""Repairs what a QEMU that died left in a server's files, before the next one uses them."""

import logging
from contextlib import suppress
from pathlib import Path

from stillframe.chain.image import Recorded
from stillframe.compute.libvirt.domain_xml import Disk
from stillframe.host import qemu_img, soundness

LOG = logging.getLogger(__name__)


def before_start(disk: Disk, volume_id: str, known: Recorded) -> None:
    """Repairs the reference counts of the disk's files that need it and that nobody has open, and logs it.

    QEMU does that itself for the file it opens for writing, not for one behind it that it will merge into (7.2). No byte
    that a guest reads is changed. Raises BadImage for a chain that must not be opened.
    """
    if disk.directory is None:
        return
    share = Path(disk.directory)
    with suppress(FileNotFoundError):  # a start of a file that is missing fails with QEMU's own message
        chain = qemu_img.read_chain(share, volume_id, str(disk.name), disk.format, known)
        for each in soundness.mend_open(share, chain.images):
            LOG.warning("volume %s: %s", volume_id, each)


def before_growth(share: Path, disk: Disk, volume_id: str) -> None:
    """As ``before_start``, for the one file that qemu-img will write to. Raises NotSound for a file that cannot be repaired."""
    for each in soundness.repair(share, str(disk.name), disk.format):
        LOG.warning("volume %s: %s", volume_id, each)

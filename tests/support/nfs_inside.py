"""Runs inside the NFS machine, as root: mounts the share as an operator's fstab would, then becomes the service's user.

``python -m tests.support.nfs_inside [--as-service] -- COMMAND...``; see ``nfs_vm``.
"""

import os
import sys
from pathlib import Path

from stillframe.host import mounts
from stillframe.volumes.drivers import nfs
from tests.support.nfs_vm import SERVICE_UID, SHARE_GID

EXPORT = "127.0.0.1:/share"
BASE = Path("/var/lib/stillframe/mnt")


def become_service() -> None:
    """Gives up root for good. To read the project, wherever it lies, it keeps the right that counts on this machine only."""
    os.setgroups([])
    os.setresgid(SHARE_GID, SHARE_GID, SHARE_GID)
    os.setresuid(SERVICE_UID, SERVICE_UID, SERVICE_UID)


def main(arguments: list[str]) -> None:
    command = arguments[arguments.index("--") + 1 :]
    point = mounts.mount_point(BASE, EXPORT)
    mounts.mount("nfs", EXPORT, point, nfs.DEFAULT_OPTIONS)
    os.environ |= {
        "STILLFRAME_NFS_EXPORT": EXPORT,
        "STILLFRAME_NFS_MOUNT_POINT_BASE": str(BASE),
        "STILLFRAME_NFS_SHARE": str(point),
    }
    if "--as-service" in arguments[: arguments.index("--")]:
        become_service()
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])

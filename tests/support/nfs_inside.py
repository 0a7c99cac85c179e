"""Runs inside the NFS machine, as root: exports the share, mounts it as an operator's fstab would, runs the command.

``python -m tests.support.nfs_inside service|squashed|root COMMAND...``; see ``nfs_vm``.
"""

import os
import subprocess
import sys
from pathlib import Path

from stillframe.host import mounts
from stillframe.volumes.storage.drivers import nfs
from tests.support.nfs_vm import EXPORT, SERVICE_UID, SHARE_GID

BASE = Path("/var/lib/stillframe/mnt")
POINT = mounts.mount_point(BASE, EXPORT)
_AS_SERVICE = [
    *("setpriv", f"--reuid={SERVICE_UID}", f"--regid={SHARE_GID}", "--clear-groups"),
    # Lets it read the project anywhere; on the share, which another machine serves, it has no effect.
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search", "--"),
]


SQUASHED_TO_SERVICE = f"root_squash,anonuid={SERVICE_UID},anongid={SHARE_GID}"


def export(*, root_is: str = "root_squash") -> None:
    """Exports the share. fsid=0 makes /srv the root that clients see: the overlay around it cannot be exported."""
    Path("/etc/exports").write_text(f"/srv 127.0.0.1(rw,sync,fsid=0,no_subtree_check,{root_is})\n")
    subprocess.run(["exportfs", "-r"], check=True)


def main(user: str, *command: str) -> None:
    export(root_is=SQUASHED_TO_SERVICE if user == "squashed" else "root_squash")
    mounts.mount("nfs", EXPORT, POINT, nfs.DEFAULT_OPTIONS)
    os.environ |= {
        "STILLFRAME_NFS_EXPORT": EXPORT,
        "STILLFRAME_NFS_MOUNT_POINT_BASE": str(BASE),
        "STILLFRAME_NFS_SHARE": str(POINT),
    }
    words = [*(_AS_SERVICE if user == "service" else []), *command]
    os.execvp(words[0], words)


if __name__ == "__main__":
    main(*sys.argv[1:])

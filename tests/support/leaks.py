"""Clusters of a qcow2 file that nothing refers to."""

from pathlib import Path

from stillframe.host import inspection, qemu_img


def leaked_clusters(share: Path, name: str, format_: str) -> int:
    """Returns how many there are, none in a raw file. Raises BadImage when the file is damaged."""
    if format_ == "raw":
        inspection.alone(share, name, format_)
        return 0
    return int(qemu_img._examine(share, name, format_).get("leaks", 0))

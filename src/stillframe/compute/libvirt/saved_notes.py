"""Which servers were seen with a managed save image: libvirt (9.0) still calls a domain saved when the image was removed (F22).

A note is a file of the server's id below the state directory. It is made when the image is seen, and goes when the server
runs again. A server that libvirt calls saved, without an image and without a note, was saved to a file nobody can list.
"""

from pathlib import Path

from stillframe.compute.libvirt.domain_state import SHUTOFF, SHUTOFF_SAVED
from stillframe.errors import NotFound
from stillframe.host import files, hypervisor, workdir
from stillframe.host.hypervisor import DomainView, Hypervisor


def is_saved_elsewhere(state_dir: Path, view: DomainView) -> bool:
    """Tells whether the domain's memory lies in a file outside libvirt's managed place. Changes nothing."""
    says_so = (view.state, view.reason) == (SHUTOFF, SHUTOFF_SAVED)
    return says_so and not view.active and not view.saved and not _note(state_dir, view).exists()


def follow(state_dir: Path, view: DomainView) -> None:
    """Keeps the note as the domain is seen now."""
    there = _note(state_dir, view)
    if view.saved and not there.exists():
        workdir.make_private(there.parent)
        files.write_json(there.parent, there.name, {"name": view.name}, mode=0o600)
    elif view.active and there.exists():
        files.remove(there.parent, there.name)


def look(connection: Hypervisor, state_dir: Path) -> None:
    """Removes the notes of servers that run again: when one of them is saved again, that is a new saved state. It is cheap
    where nothing is saved, and called every few seconds, because a start by another program is not reported to us."""
    directory = state_dir / "saved"
    for server_id in files.listing(directory) if directory.is_dir() else ():
        if server_id.startswith("."):  # a note that was never finished
            continue
        try:
            follow(state_dir, hypervisor.find(connection, server_id))
        except NotFound:
            files.remove(directory, server_id)


def _note(state_dir: Path, view: DomainView) -> Path:
    return state_dir / "saved" / view.uuid

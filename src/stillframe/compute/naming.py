"""Which files of a directory libvirt's descriptions name: of every server of this host, live, inactive and saved."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stillframe.compute import domain_xml, servers
from stillframe.compute.world import World
from stillframe.context import Context
from stillframe.errors import BadRequest
from stillframe.host import users


def named_files(world: World, _context: Context, directory: str) -> dict[str, list[str]]:
    """Returns the ids of the servers whose descriptions name a file of ``directory``, an absolute path, by the file's name.

    A description may name the directory by another mount point or the file by a link: both are followed. Raises BadRequest,
    HypervisorUnavailable.
    """
    if not os.path.isabs(directory) or "\0" in directory:
        raise BadRequest(f"the directory must be an absolute path, not {directory[:80]!r}")
    place = users.identity(Path(directory))
    found: dict[str, list[str]] = {}
    for server in servers.list_everything(world):
        named = {name for xml in server.described for name in _names(xml, directory, place)}
        for name in sorted(named):
            found.setdefault(name, []).append(server.id)
    return found


def _names(xml: str, directory: str, place: users.Identity | None) -> Iterator[str]:
    for path in domain_xml.paths(xml):
        for each in {path, os.path.realpath(path)}:
            parent = os.path.dirname(each)
            if parent == os.path.normpath(directory) or (place is not None and users.identity(Path(parent)) == place):
                yield os.path.basename(each)


METHODS: Mapping[str, Any] = {"named_files": named_files}

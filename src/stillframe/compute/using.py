"""Which descriptions of servers name a volume, wherever libvirt keeps them."""

import html
from collections.abc import Iterator, Mapping
from typing import Any

from stillframe.chain import names
from stillframe.compute.world import World
from stillframe.context import Context
from stillframe.errors import HypervisorUnavailable
from stillframe.host import hypervisor
from stillframe.host.hypervisor import DomainView


def users_of_volume(world: World, context: Context, volume_id: str) -> list[dict[str, str]]:
    """Returns ``{"server_id", "name", "where"}`` for each description in which a file of the volume stands anywhere: as a
    disk's source, a backing file. A serial is none: a copied domain keeps it. ``where`` is live, inactive or saved. Raises
    HypervisorUnavailable: then nobody knows."""
    wanted = names.base_name(names.canonical_id(volume_id, "volume_id"))
    found = [
        {"server_id": view.uuid, "name": view.name, "where": where}
        for view in hypervisor.list_domains(world.hypervisor)
        for where, xml in _descriptions(view)
        if wanted in html.unescape(xml).lower()
    ]
    return [each for number, each in enumerate(found) if each not in found[:number]]


def _descriptions(view: DomainView) -> Iterator[tuple[str, str]]:
    yield ("live" if view.active else "inactive"), view.xml
    if view.inactive_xml is not None:
        yield "inactive", view.inactive_xml
    if view.saved_xml is not None:
        yield "saved", view.saved_xml
    elif view.saved:
        raise HypervisorUnavailable(
            f"the saved memory of server {view.uuid} ({view.name}) cannot be read, so it is not known which files it needs"
        )


METHODS: Mapping[str, Any] = {"users_of_volume": users_of_volume}

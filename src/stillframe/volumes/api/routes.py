"""Every path block storage answers to."""

from typing import Any

from stillframe.volumes.api import (
    adopted_volumes,
    attachments,
    backups,
    chains,
    group_snapshots,
    group_types,
    groups,
    manageable_volumes,
    messages,
    pools,
    qos_specs,
    quotas,
    reservations,
    services,
    set_metadata,
    short_lists,
    snapshots,
    transfers,
    volume_actions,
    volume_types,
    volumes,
)
from stillframe.web.route import Route, Service

MINIMUM, MAXIMUM = (3, 0), (3, 71)

ROUTES: tuple[Route, ...] = (
    *volumes.ROUTES,
    *volume_actions.ROUTES,
    *snapshots.ROUTES,
    *set_metadata.ROUTES,
    *attachments.ROUTES,
    *volume_types.ROUTES,
    *backups.ROUTES,
    *chains.ROUTES,
    *manageable_volumes.ROUTES,
    *adopted_volumes.ROUTES,
    *pools.ROUTES,
    *quotas.ROUTES,
    *services.ROUTES,
    *reservations.ROUTES,
    *transfers.ROUTES,
    *messages.ROUTES,
    *qos_specs.ROUTES,
    *group_types.ROUTES,
    *groups.ROUTES,
    *group_snapshots.ROUTES,
    *short_lists.ROUTES,
)


def _entry(prefix: str) -> dict[str, Any]:
    return {
        "id": "v3.0",
        "status": "CURRENT",
        "version": "3.71",
        "min_version": "3.0",
        "updated": "2023-08-31T00:00:00Z",
        "links": [
            {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"},
            {"rel": "self", "href": f"{prefix}/v3/"},
        ],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"}],
    }


SERVICE = Service(
    name="volume",
    prefix="/v3",
    minimum=MINIMUM,
    maximum=MAXIMUM,
    routes=ROUTES,
    version_document=lambda prefix: {"versions": [_entry(prefix)]},
    root_document=lambda prefix: (300, {"versions": [_entry(prefix)]}),
)

"""Every path compute answers to."""

from typing import Any

from stillframe.compute.api import (
    adopted_disks,
    assisted_snapshot_settings,
    assisted_snapshots,
    assisted_volume_snapshots,
    assisted_volumes,
    attachments,
    flavors,
    servers,
    snapshot_policies,
)
from stillframe.web.route import Route, Service

MINIMUM, MAXIMUM = (2, 1), (2, 100)

ROUTES: tuple[Route, ...] = (
    *servers.ROUTES,
    *flavors.ROUTES,
    *adopted_disks.ROUTES,
    *attachments.ROUTES,
    *assisted_snapshots.ROUTES,
    *assisted_snapshot_settings.ROUTES,
    *snapshot_policies.ROUTES,
    *assisted_volume_snapshots.ROUTES,
    *assisted_volumes.ROUTES,
)


def _entry(prefix: str) -> dict[str, Any]:
    return {
        "id": "v2.1",
        "status": "CURRENT",
        "version": f"{MAXIMUM[0]}.{MAXIMUM[1]}",
        "min_version": f"{MINIMUM[0]}.{MINIMUM[1]}",
        "updated": "2013-07-23T11:33:21Z",
        "links": [
            {"rel": "self", "href": f"{prefix}/v2.1/"},
            {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"},
        ],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"}],
    }


SERVICE = Service(
    name="compute",
    prefix="/v2.1",
    minimum=MINIMUM,
    maximum=MAXIMUM,
    routes=ROUTES,
    version_document=lambda prefix: {"version": _entry(prefix)},
    root_document=lambda prefix: (200, {"versions": [_entry(prefix)]}),
    legacy_version_header="X-OpenStack-Nova-API-Version",
)

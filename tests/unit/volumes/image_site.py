"""An image service that is a list of answers."""

from typing import Any

from stillframe import config
from stillframe.volumes.clients.glance import ImageClient
from tests.unit.http_site import Site, in_order

IMAGE = "7a7a7a7a-7777-4777-8777-777777777777"
ENDPOINT = "http://glance.example.org"


def document(**more: Any) -> dict[str, Any]:
    """An image as Glance shows it."""
    return {
        "id": IMAGE,
        "name": "image",
        "status": "active",
        "owner": "demo",
        "visibility": "shared",
        "disk_format": "raw",
        "container_format": "bare",
        "size": 4,
        "virtual_size": 4,
        "min_disk": 0,
        "min_ram": 0,
        "checksum": None,
        "os_hash_algo": None,
        "os_hash_value": None,
        "protected": False,
        **more,
    }


def client(*answers: Any, **options: Any) -> tuple[ImageClient, Site]:
    """A client that needs no signing in, and what it will be answered."""
    given = {"endpoint": ENDPOINT, **options}
    made = ImageClient(config.load(overrides={("image", name): value for name, value in given.items()}))
    site = in_order(*answers)
    made._session._session().session.mount("http://", site)
    return made, site
